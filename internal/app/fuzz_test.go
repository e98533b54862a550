package app

import (
	"encoding/json"
	"testing"
	"time"

	"sallyport"
)

// FuzzHalts reads a file of halts: whatever is accepted stops something, each halt
// of it, and is read again as what it was.
func FuzzHalts(f *testing.F) {
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `[null]`, `[{}]`, `[{"scope":"global","reason":"x","by":"file","at":"2026-11-23T12:00:00Z"}]`,
		`[{"scope":"agent","subject":"support","reason":"x","by":"signal","at":"2026-11-23T12:00:00.123456789+01:00"},{"scope":"stage","subject":"production"}]`,
		`[{"scope":"agent","subjct":"support"}]`, `[{"scope":"agent","scope":"global"}]`, `[{"Scope":"global"}]`, `[{"scope":"tool","subject":"crm/look"}]`, `[{"scope":"stage","subject":"prod"}]`, `[{"scope":"tool","subject":"crm/"}]`, `[{"scope":"tool","subject":"/look"}]`,
		`[{"scope":7}]`, `[{"scope":"run","subject":""}]`, "[{\"scope\":\"run\",\"subject\":\"\xff\"}]", `[{"scope":"global"}]x`, `[{"scope":"global"`, `[{"scope":"upstream","subject":"\ud800"}]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		halts, err := parseHalts(raw)
		if err != nil {
			if halts != nil {
				t.Fatal("halts and an error")
			}
			return
		}
		for i := range halts {
			h := &halts[i]
			target := sallyport.Target{}
			switch h.Scope {
			case sallyport.HaltStage:
				if err := target.Stage.UnmarshalText([]byte(h.Subject)); err != nil {
					t.Fatal(err)
				}
			case sallyport.HaltAgent:
				target.Agent = sallyport.AgentID(h.Subject)
			case sallyport.HaltRelease:
				target.Release = sallyport.ReleaseID(h.Subject)
			case sallyport.HaltUpstream:
				target.Upstream = sallyport.UpstreamID(h.Subject)
			case sallyport.HaltRun:
				target.Run = sallyport.RunID(h.Subject)
			case sallyport.HaltTool:
				for j := range len(h.Subject) {
					if h.Subject[j] == '/' && j+1 < len(h.Subject) {
						target.Upstream, target.Tool = sallyport.UpstreamID(h.Subject[:j]), h.Subject[j+1:]
						break
					}
				}
			}
			if !h.Stops(&target) {
				t.Fatalf("%+v stops nothing", h)
			}
		}
		written, err := json.Marshal(halts)
		if err != nil {
			return // a time that has no JSON form
		}
		again, err := parseHalts(written)
		if err != nil || len(again) != len(halts) {
			t.Fatalf("%s is not read again: %v", written, err)
		}
		for i := range again {
			if !again[i].At.Equal(halts[i].At) {
				t.Fatalf("%v became %v", halts[i], again[i])
			}
			again[i].At, halts[i].At = time.Time{}, time.Time{}
			if again[i] != halts[i] {
				t.Fatalf("%v became %v", halts[i], again[i])
			}
		}
	})
}
