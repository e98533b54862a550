package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"sallyport"
)

// parseHalts reads the file of halts. It is strict, because what reads as no halt
// was meant to stop something: a member that is not known or is there twice, a
// list that is not one, or a halt that could stop nothing is an error, and whoever
// reads the file stops everything then.
func parseHalts(raw []byte) ([]sallyport.Halt, error) {
	var halts []sallyport.Halt
	if err := json.Unmarshal(raw, &halts, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if halts == nil {
		return nil, errors.New("no list of halts")
	}
	for i := range halts {
		h := &halts[i]
		var stage sallyport.Stage
		upstream, tool, _ := strings.Cut(h.Subject, "/")
		switch {
		case h.Scope == 0:
			return nil, fmt.Errorf("halt %d has no scope", i+1)
		case h.Scope == sallyport.HaltGlobal:
		case h.Subject == "":
			return nil, fmt.Errorf("halt %d names no %s to stop", i+1, h.Scope)
		case h.Scope == sallyport.HaltStage && stage.UnmarshalText([]byte(h.Subject)) != nil,
			h.Scope == sallyport.HaltTool && (upstream == "" || tool == ""):
			return nil, fmt.Errorf("halt %d: there is no %s of that name", i+1, h.Scope)
		}
	}
	return halts, nil
}
