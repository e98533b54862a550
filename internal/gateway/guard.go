package gateway

import (
	"context"

	"sallyport"
	"sallyport/internal/wire"
)

// guardResponse asks whether what came back may enter. In this version: is it a
// response at all, and if it asks the client something (MCP 2026-07-28, multi
// round-trip requests), does policy let this upstream ask? Content is looked at
// by later versions of this step.
func (g *Gateway) guardResponse(ctx context.Context, x *Exchange) error {
	m := &x.Response.Message
	if m.Kind != wire.Result && m.Kind != wire.Error {
		return sallyport.Refuse(sallyport.UpstreamProtocol, "the system behind this tool did not send a response", "")
	}
	if x.Kind == sallyport.KindTool && isTask(m) {
		if x.Changing() {
			x.Response = nil // it was begun, and nobody will hear how it ends
		}
		return tasks()
	}
	if m.ResultType != wire.ResultInputRequired {
		return nil
	}
	questions, _, err := wire.Questions(m.Result.Of(m.Raw))
	switch {
	case err != nil:
		return sallyport.Refuse(sallyport.UpstreamProtocol, "the system behind this tool asked for input in a form that cannot be read", "")
	case len(questions) > maxInputs:
		return sallyport.Refuse(sallyport.UpstreamProtocol, "the system behind this tool asked for more at once than anybody is asked", "")
	case !x.crosses():
		return g.putAll(ctx, x, questions)
	}
	for _, q := range questions { // recorded on the way: see ask and judge
		if _, _, err := g.mayAsk(x, q.Method); err != nil {
			return err
		}
	}
	if x.Era == wire.Sessions {
		return sallyport.Refuse(sallyport.EraMismatch, "the system behind this tool asks for something before it goes on, and the client did not answer",
			"call again with a client that answers, or do without this tool")
	}
	return nil
}

// isTask reports whether the result of a call is a task that goes on: in the
// stateless era a type of result, with sessions an object without content.
func isTask(m *wire.Message) bool {
	if m.Kind != wire.Result {
		return false
	}
	if m.ResultType != "" {
		return m.ResultType == "task"
	}
	if m.Content.Present() {
		return false
	}
	task, ok, err := wire.Field(m.Result.Of(m.Raw), "task")
	return err == nil && ok && task[0] == '{'
}
