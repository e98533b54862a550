package upstream

import (
	"context"
	"fmt"

	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// told is the level of log messages that a session of the upstream was asked for.
// Servers may say nothing until they are, or everything (MCP 2025-11-25,
// "Logging"): the client's wish goes ahead of the next request.
type told struct {
	turn  chan struct{} // held by whoever asks
	level string
}

func newTold() told { return told{turn: make(chan struct{}, 1)} }

// follow asks for the level that the client has set since. greeting is the result
// of initialize: a server that logs nothing is not asked. A server that refuses, or
// does not answer, costs the call that comes next nothing but the wait.
func (t *told) follow(ctx context.Context, u *upstream, client *gateway.Session, greeting []byte, ask func(context.Context, *gateway.Request) (*gateway.Response, error)) {
	if client == nil || client.LogLevel == nil {
		return
	}
	level := client.LogLevel()
	if level == "" {
		return
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return
	}
	if level == t.level {
		return
	}
	t.level = level
	if capabilities, err := memberOf(greeting, "capabilities"); err != nil || len(capabilities) == 0 || capabilities[0] != '{' {
		return
	} else if _, logs, err := wire.Field(capabilities, "logging"); err != nil || !logs {
		return
	}
	params := append(wire.AppendString([]byte(`{"level":`), level), '}')
	raw := wire.AppendRequest(nil, []byte(`"sallyport-level"`), wire.MethodLoggingSetLevel, params)
	m, err := wire.Scan(raw, wire.Limits{Bytes: len(raw)})
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, asideTimeout)
		defer cancel()
		_, err = ask(ctx, &gateway.Request{Message: m})
	}
	if err != nil {
		u.note(fmt.Errorf("asking for log messages of level %s: %w", level, err))
	}
}
