package twin_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/testkit"
	"sallyport/internal/twin"
)

// The shop of testdata/retail: what was recorded of it, and our twin.
type retail struct {
	world *twin.World
	tools map[string]*sallyport.Tool
	tasks map[string][]retailTask
	base  struct {
		Users  map[string]map[string]any
		Orders map[string]struct {
			PaymentHistory []any `json:"payment_history"`
		}
	}
}

type retailTask struct {
	ID    int          `json:"id"`
	Calls []retailCall `json:"ground_truth"`
}

type retailCall struct {
	Tool      string          `json:"tool"`
	Arguments json.RawMessage `json:"arguments"`
	Output    string          `json:"output"`
	Mutates   *bool           `json:"mutates"`
}

func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata/retail", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func loadRetail(t testing.TB) *retail {
	t.Helper()
	var recorded struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
		Splits map[string][]retailTask `json:"splits"`
	}
	if err := json.Unmarshal(gunzip(t, "retail.json.gz"), &recorded); err != nil {
		t.Fatal(err)
	}
	r := &retail{tools: map[string]*sallyport.Tool{}, tasks: recorded.Splits}
	var tools []sallyport.Tool
	for _, tool := range recorded.Tools {
		tools = append(tools, sallyport.Tool{Name: tool.Name, UpstreamName: tool.Name})
	}
	for i := range tools {
		r.tools[tools[i].Name] = &tools[i]
	}
	definition, err := os.ReadFile("testdata/retail/worlds/retail.yaml")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/retail/worlds/retail.star")
	if err != nil {
		t.Fatal(err)
	}
	def, err := twin.Parse(testkit.FromYAML(t, definition))
	if err != nil {
		t.Fatal(err)
	}
	database := gunzip(t, "retail_db.json.gz")
	if err := json.Unmarshal(database, &r.base); err != nil {
		t.Fatal(err)
	}
	data := map[string][]byte{"retail_db.json": database, "retail.star": script}
	if r.world, err = twin.Compile(def, data, tools); err != nil {
		t.Fatal(err)
	}
	return r
}

// retailScore is how much of a split is as it was recorded.
type retailScore struct {
	Calls, Exact          int // all calls; those with the output byte for byte
	Errors, ExactErrors   int // recorded errors; those answered with that error
	Changes, ExactChanges int // calls recorded as changing; those that changed something, with the output
	Tasks, ExactTasks     int // tasks; those that end in the state that the outputs imply
}

func (r *retail) score(t *testing.T, split string) retailScore {
	t.Helper()
	var s retailScore
	for _, task := range r.tasks[split] {
		run := r.world.NewRun(1)
		ended := map[[2]string][]byte{} // what is left of each row that was changed
		for n, c := range task.Calls {
			s.Calls++
			a, err := run.Call(r.tools[c.Tool], c.Arguments, n)
			same := err == nil && a.Text == c.Output
			if same {
				s.Exact++
			} else {
				t.Logf("%s %d.%d %s %s: %v\n got %s\nwant %s", split, task.ID, n, c.Tool, c.Arguments, err, a.Text, c.Output)
			}
			if strings.HasPrefix(c.Output, "Error") {
				s.Errors++
				if same && a.IsError && len(a.Changes) == 0 {
					s.ExactErrors++
				}
			}
			if c.Mutates != nil && *c.Mutates {
				s.Changes++
				if same && len(a.Changes) > 0 {
					s.ExactChanges++
				}
			} else if c.Mutates != nil && len(a.Changes) > 0 {
				t.Errorf("%s %d.%d %s changes %v", split, task.ID, n, c.Tool, a.Changes)
			}
			for _, change := range a.Changes {
				ended[[2]string{change.Table, change.Key}] = change.After
			}
		}
		s.Tasks++
		got := decoded(t, ended)
		r.dropUnchanged(got)
		if d := cmp.Diff(r.implied(t, task), got); d == "" {
			s.ExactTasks++
		} else {
			t.Logf("%s %d ends in another state: %s", split, task.ID, d)
		}
	}
	return s
}

func decoded(t *testing.T, rows map[[2]string][]byte) map[[2]string]any {
	t.Helper()
	out := map[[2]string]any{}
	for at, raw := range rows {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		out[at] = v
	}
	return out
}

// implied are the rows that differ at the end of a task, by what was recorded and
// nothing else: orders and users are what the last output says, and gift cards have
// what the payments of those orders left on them.
func (r *retail) implied(t *testing.T, task retailTask) map[[2]string]any {
	t.Helper()
	rows := map[[2]string]any{}
	spent := map[[2]string]float64{} // by user and gift card
	paid := map[string]int{}         // payments seen, by order
	for _, c := range task.Calls {
		if !strings.HasPrefix(c.Output, "{") {
			continue
		}
		var out map[string]any
		if err := json.Unmarshal([]byte(c.Output), &out); err != nil {
			t.Fatal(err)
		}
		switch c.Tool {
		case "modify_user_address":
			var args struct {
				User string `json:"user_id"`
			}
			if err := json.Unmarshal(c.Arguments, &args); err != nil {
				t.Fatal(err)
			}
			rows[[2]string{"users", strconv.Quote(args.User)}] = out
		case "get_order_details", "get_product_details", "get_user_details", "list_all_product_types":
		default:
			id, user := out["order_id"].(string), out["user_id"].(string)
			rows[[2]string{"orders", strconv.Quote(id)}] = out
			history := out["payment_history"].([]any)
			if _, seen := paid[id]; !seen {
				paid[id] = len(r.base.Orders[id].PaymentHistory)
			}
			for _, p := range history[paid[id]:] {
				p := p.(map[string]any)
				amount := p["amount"].(float64)
				if p["transaction_type"] == "refund" {
					amount = -amount
				}
				if method := p["payment_method_id"].(string); strings.HasPrefix(method, "gift_card") {
					spent[[2]string{user, method}] += amount
				}
			}
			paid[id] = len(history)
		}
	}
	for at, amount := range spent {
		key := [2]string{"users", strconv.Quote(at[0])}
		user, changed := rows[key].(map[string]any)
		if !changed {
			b, _ := json.Marshal(r.base.Users[at[0]])
			if err := json.Unmarshal(b, &user); err != nil {
				t.Fatal(err)
			}
		}
		var before float64
		b, _ := json.Marshal(r.base.Users[at[0]]["payment_methods"].(map[string]any)[at[1]].(map[string]any)["balance"])
		if err := json.Unmarshal(b, &before); err != nil {
			t.Fatal(err)
		}
		card := user["payment_methods"].(map[string]any)[at[1]].(map[string]any)
		card["balance"] = math.Round((before-amount)*100) / 100
		rows[key] = user
	}
	r.dropUnchanged(rows)
	return rows
}

// dropUnchanged leaves out users that were changed to what they had been.
func (r *retail) dropUnchanged(rows map[[2]string]any) {
	for id, user := range r.base.Users {
		if key := [2]string{"users", strconv.Quote(id)}; cmp.Equal(rows[key], any(user)) {
			delete(rows, key)
		}
	}
}

// The rules were written from the policy, the descriptions of the tools, and train and
// dev; test was run once they answered those, and is answered by the same rules.
func TestRetail(t *testing.T) {
	r := loadRetail(t)
	for split, want := range map[string]retailScore{
		"train": {Calls: 768, Exact: 768, Errors: 20, ExactErrors: 20, Tasks: 500, ExactTasks: 500},
		"dev":   {Calls: 25, Exact: 25, Tasks: 20, ExactTasks: 20},
		"test":  {Calls: 582, Exact: 582, Errors: 24, ExactErrors: 24, Changes: 173, ExactChanges: 173, Tasks: 115, ExactTasks: 115},
	} {
		t.Run(split, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(want, r.score(t, split)); d != "" {
				t.Error(d)
			}
		})
	}
}
