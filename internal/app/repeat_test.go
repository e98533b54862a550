package app

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/wire"
)

// envTranscripts names a file: the test binary is the second process of
// TestSameSeedSameBytes, and writes there what it has seen.
const envTranscripts = "SALLYPORT_TEST_TRANSCRIPTS"

// manyFaults have every second call go wrong: some at fixed places, the rest by the dice.
const manyFaults = `  profile: hostile
  latency: {mean: 300us, spread: 0.5, most: 2ms}
  rules:
    - {at: [3], fault: list_changed}
    - {at: [7], fault: timeout_after_commit}
    - {at: [8], fault: too_many_requests, retry_after: 2s}
    - {at: [13], fault: server_error}
    - {at: [14], fault: rpc_error}
    - {at: [19], fault: oversized_result}
    - {at: [20], fault: injected_instruction}
    - {rate: 0.06, fault: timeout_after_commit}
    - {rate: 0.05, fault: timeout}
    - {rate: 0.07, fault: duplicate_delivery}
    - {tool: list, rate: 0.3, fault: stale_read, behind: 3}
    - {rate: 0.05, fault: too_many_requests, retry_after: 2s}
    - {rate: 0.05, fault: server_error}
    - {rate: 0.05, fault: rpc_error}
    - {rate: 0.05, fault: partial_result}
    - {rate: 0.05, fault: truncated_result}
    - {rate: 0.05, fault: schema_drift}
    - {rate: 0.03, fault: list_changed}
`

// transcript is everything that a run was answered, byte for byte, and what is recorded
// of the world after each call.
func (c *deskClerk) transcript() string {
	var b strings.Builder
	for i := range 36 {
		tool, args := "add", fmt.Sprintf(`{"text":"note %d \u00e9","weight":%d.50}`, i, i)
		switch i % 6 {
		case 2:
			tool, args = "list", `{}`
		case 4:
			tool, args = "drop", fmt.Sprintf(`{"id":%d}`, i/3)
		case 5:
			tool, args = "time", `{}`
		}
		fmt.Fprintf(&b, "%s %s\n%s\n", tool, args, strings.Join(c.call(tool, args), "\n"))
	}
	for _, r := range c.outcomes() {
		fmt.Fprintf(&b, "%d %s %s %s\n", r.Number, r.Outcome, r.Grade, r.WorldState)
	}
	return b.String()
}

// TestSameSeedSameBytes makes the same calls in a hundred runs, half of them in another
// process with a store of its own, several at a time, in both eras. Worlds are twins in
// which calls go wrong. Whatever a client sees, and the state of the world after each
// call, is the same to the last byte.
func TestSameSeedSameBytes(t *testing.T) {
	const rounds = 25 // in each era and process
	out := os.Getenv(envTranscripts)
	var second *exec.Cmd
	file := filepath.Join(t.TempDir(), "transcripts")
	if out == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		second = exec.CommandContext(t.Context(), self, "-test.run=^TestSameSeedSameBytes$")
		second.Env = append(os.Environ(), envTranscripts+"="+file)
		second.Stdout, second.Stderr = os.Stderr, os.Stderr
		if err := second.Start(); err != nil {
			t.Fatal(err)
		}
	}

	y := startDesk(t, manyFaults)
	seen := map[wire.Era]string{}
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		seen[era] = y.deskClerk(t, era, 7).transcript()
	}
	t.Run("again", func(t *testing.T) {
		for era, want := range seen {
			for range rounds - 1 {
				t.Run("run", func(t *testing.T) {
					t.Parallel()
					if diff := cmp.Diff(want, y.deskClerk(t, era, 7).transcript()); diff != "" {
						t.Errorf("(-first +again)\n%s", diff)
					}
				})
			}
		}
	})
	all := seen[wire.Sessions] + seen[wire.Stateless]
	if out != "" {
		if err := os.WriteFile(out, []byte(all), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}

	if err := second.Wait(); err != nil {
		t.Fatalf("the second process: %v", err)
	}
	theirs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, string(theirs)); diff != "" {
		t.Errorf("(-this +second process)\n%s", diff)
	}
	for _, wrong := range []string{"did not answer in time", "status 429", "status 503", `"code":-32603`, "larger than", "locked", "list_changed"} {
		if !strings.Contains(all, wrong) {
			t.Errorf("nothing goes wrong like %q", wrong)
		}
	}
	if other := y.deskClerk(t, wire.Stateless, 8).transcript(); other == seen[wire.Stateless] {
		t.Error("another seed has the same run")
	}
	states := map[string]bool{}
	for line := range strings.Lines(seen[wire.Stateless]) {
		if _, state, ok := strings.Cut(line, " sha256:"); ok {
			states[state] = true
		}
	}
	if len(states) < 10 {
		t.Errorf("the world was in %d states: the test shows little", len(states))
	}
}
