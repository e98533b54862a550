package app

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/auth"
	"sallyport/internal/cassette"
	"sallyport/internal/config"
	"sallyport/internal/gateway"
	"sallyport/internal/scrub"
	"sallyport/internal/stdiobridge"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// RecordOptions say what is recorded, and where to.
type RecordOptions struct {
	Dir      string
	Upstream sallyport.UpstreamID
	Stage    sallyport.Stage // staging or production
	Out      string          // the file; it may not be there yet
	Domain   string          // whose pseudonyms it gets
	Canaries [][]byte        // that must not be in it
	// Stdio serves one client over In and Stdout; otherwise Listen is an address of the
	// loopback interface.
	Stdio  bool
	In     io.Reader
	Stdout io.Writer
	Listen string
	// Begin puts on record that this begins, before anything is reached. Permitted is
	// asked before each call, and stops it with its error.
	Begin     func(ctx context.Context) error
	Permitted func(ctx context.Context, tool string) error
	// Ready is told where clients connect, nil over stdio.
	Ready func(url string)
	Say   func(line string)
}

// Recording is what became of a recording.
type Recording struct {
	File     string               `json:"file"`
	Upstream sallyport.UpstreamID `json:"upstream"`
	Stage    sallyport.Stage      `json:"stage,omitzero"`
	Calls    int                  `json:"calls"`
	Replaced map[string]int       `json:"replaced"` // values, by class
	Dropped  map[string]int       `json:"dropped,omitempty"`
	Sealed   bool                 `json:"sealed"`
	// Searched are the different values that were looked for in it; nobody looks for
	// those of less than four bytes, which are Unsearched.
	Searched   int `json:"searched"`
	Unsearched int `json:"unsearched"`
	// Hits are where values stand that should be gone: it is then not sealed.
	Hits []RecordingHit `json:"hits,omitempty"`
}

// RecordingHit is where in a recording a value stands that should be gone.
type RecordingHit struct {
	Line    int    `json:"line"`
	Pointer string `json:"pointer"`
	Written string `json:"written"` // plain, or in which encoding
	Bytes   int    `json:"bytes"`
	Canary  bool   `json:"canary"` // it was planted
}

// Leaks says that values stand in a recording that should be gone.
type Leaks struct{ Hits []RecordingHit }

func (l *Leaks) Error() string {
	h := l.Hits[0]
	what := "a value that was replaced elsewhere"
	if h.Canary {
		what = "a canary"
	}
	return fmt.Sprintf("line %d, %s: %s of %d bytes is there, %s, and in %s in all; declare a data class (x-data-class) for that place and record again",
		h.Line, h.Pointer, what, h.Bytes, h.Written, Count(len(l.Hits), "place"))
}

func hitsOf(found []cassette.Hit) []RecordingHit {
	hits := make([]RecordingHit, len(found))
	for i, h := range found {
		hits[i] = RecordingHit{h.Line, h.Pointer, h.Encoding.String(), h.Length, h.Canary}
	}
	return hits
}

// recorder stands between clients and an upstream. It is an [agentside.Gateway] without
// a policy: a person uses it, and what goes through it is written down.
type recorder struct {
	RecordOptions
	key      string
	stage    *upstream.Stage
	of       sallyport.StageUpstream
	found    upstream.Probed
	tools    map[string]*sallyport.Tool
	classes  map[string]*cassette.Classes
	caps     json.RawMessage
	etag     string
	file     *os.File
	writer   *cassette.Writer
	began    time.Time
	sealing  chan sealRequest
	quit     context.CancelFunc
	finished chan struct{} // closed when report and err are there
	report   *Recording
	err      error

	mu     sync.Mutex // one tools/call at a time: a recording is a sequence
	broken *sallyport.Refusal
}

type sealRequest struct{ canaries [][]byte }

// synced is a file each write of which is on the disk when it returns.
type synced struct{ f *os.File }

func (s synced) Write(b []byte) (int, error) {
	n, err := s.f.Write(b)
	if err == nil {
		err = s.f.Sync()
	}
	return n, err
}

// recorderNote is the file beside a recording that is being made. It says where its
// recorder can be asked to seal it.
func recorderNote(out string) string { return out + ".recorder" }

// Record serves an upstream to clients that know nothing of it, and writes down what
// they call, until ctx ends, the client over stdio goes, or somebody seals it. The
// error is *Leaks, with which the report comes too, where sealing was refused.
func Record(ctx context.Context, o RecordOptions) (*Recording, error) {
	r, err := newRecorder(ctx, o)
	if err != nil {
		return nil, err
	}
	ctx, r.quit = context.WithCancel(ctx)
	defer r.quit()
	serveErr := r.serve(ctx)
	r.report, r.err = r.seal()
	close(r.finished)
	return r.report, errors.Join(serveErr, r.err)
}

func newRecorder(ctx context.Context, o RecordOptions) (_ *recorder, err error) {
	if o.Stage != sallyport.Staging && o.Stage != sallyport.Production {
		return nil, sallyport.Refuse(sallyport.BadRequest, "nothing real answers in "+o.Stage.String(), "record in staging or production")
	}
	if !validDomain.MatchString(o.Domain) {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%q is no name of a data domain", o.Domain), "use a-z, 0-9 and '-', at most 64 of them")
	}
	u, err := pinnedUpstream(o.Dir, o.Upstream)
	if err != nil {
		return nil, err
	}
	of := u.Stages[o.Stage]
	if of.Transport.None() {
		return nil, sallyport.Refuse(sallyport.BadConfig, fmt.Sprintf("upstream %s is not reached in %s", o.Upstream, o.Stage), fmt.Sprintf("add a url or a command under stages in upstreams/%s.yaml", o.Upstream))
	}
	if u.API != nil {
		return nil, sallyport.Refuse(sallyport.BadConfig, fmt.Sprintf("upstream %s is an HTTP API, and only MCP servers can be recorded", o.Upstream), "")
	}
	server, problems := config.LoadServer(os.DirFS(o.Dir))
	if len(problems) > 0 {
		return nil, problems
	}
	ring, err := auth.OpenRing((&App{Options: Options{Dir: o.Dir}}).path(server.Keys))
	if err != nil {
		return nil, err
	}
	rules := &scrub.Rules{}
	scrubber, err := NewRecordingScrubber(ring, o.Domain, rules)
	if err != nil {
		return nil, err
	}
	r := &recorder{RecordOptions: o, key: rand.Text(), of: of, tools: map[string]*sallyport.Tool{}, classes: map[string]*cassette.Classes{}, sealing: make(chan sealRequest, 1), finished: make(chan struct{})}
	if r.Say == nil {
		r.Say = func(string) {}
	}
	if _, err := os.Lstat(o.Out); err == nil {
		return nil, sallyport.Refuse(sallyport.Conflict, o.Out+" is there already, and a recording is never written into another", "name another file with --out")
	}
	for i := range u.Tools {
		t := &u.Tools[i]
		r.tools[t.UpstreamName] = t
		in, _, err := wire.Field(t.Definition, "inputSchema")
		if err != nil {
			return nil, err
		}
		out, _, err := wire.Field(t.Definition, "outputSchema")
		if err != nil {
			return nil, err
		}
		if r.classes[t.UpstreamName], err = cassette.ClassesOf(in, out, cassette.Declared{}); err != nil {
			return nil, fmt.Errorf("data classes of tool %s: %w", t.UpstreamName, err)
		}
	}
	// On record first: nobody reaches the system without it.
	if err := o.Begin(ctx); err != nil {
		return nil, err
	}
	var heard hearing
	r.stage = upstream.NewStage(upstream.Config{
		Stage: o.Stage, Dir: o.Dir, Log: slog.New(&heard), Client: upstream.Implementation{Name: "sallyport", Version: Version},
		Secret: func(ref string) (string, error) { return secret(o.Dir, u.Secrets, ref) },
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, r.closeStage())
		}
	}()
	if r.found, err = r.stage.Probe(ctx, &of); err != nil {
		return nil, err
	}
	if r.of.Transport.Era == "" {
		r.of.Transport.Era = r.found.Version
	}
	digest, err := toolsDigest(r.found.Tools)
	if err != nil {
		return nil, err
	}
	r.etag = string(digest)
	if r.caps, err = withoutSubscriptions(r.found.Server.Capabilities); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(o.Out), 0o755); err != nil {
		return nil, err
	}
	if r.file, err = os.OpenFile(o.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	r.began = time.Now()
	r.writer, err = cassette.NewWriter(synced{r.file}, cassette.Header{
		Upstream: o.Upstream, Tools: digest, Scrub: sallyport.Digest(rules.Digest()), Recorded: r.began, Domain: o.Domain,
	}, scrubber)
	if err != nil {
		return nil, errors.Join(err, r.file.Close(), os.Remove(o.Out))
	}
	return r, nil
}

// withoutSubscriptions are capabilities without what needs news of an upstream beside
// its answers.
func withoutSubscriptions(raw json.RawMessage) (json.RawMessage, error) {
	var caps map[string]map[string]any
	if err := json.Unmarshal(raw, &caps); err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	for name := range caps {
		switch name {
		case "tools", "resources", "prompts":
			delete(caps[name], "subscribe")
			delete(caps[name], "listChanged")
		case "completions", "logging":
		default:
			delete(caps, name)
		}
	}
	return json.Marshal(caps)
}

func (r *recorder) closeStage() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return r.stage.Close(ctx)
}

// serve lets clients in until it is over.
func (r *recorder) serve(ctx context.Context) error {
	server := agentside.ServerInfo{Name: string(r.Upstream), Version: "1"}
	_ = json.Unmarshal(r.found.Server.ServerInfo, &server) // what it does not say stays
	agents := agentside.New(agentside.Config{Gateway: r, ServerInfo: server, MaxBody: 16 << 20})
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cmp.Or(r.RecordOptions.Listen, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return errors.Join(sallyport.Refuse(sallyport.BadRequest, r.RecordOptions.Listen+" can be reached from elsewhere, and holds the credential of "+r.Stage.String(), "listen on 127.0.0.1"), l.Close())
	}
	// Whoever knows the address may use it: it is a credential.
	base := "/" + r.key
	mux := http.NewServeMux()
	mux.HandleFunc(base+"/mcp", func(w http.ResponseWriter, q *http.Request) {
		q.Header.Set("Authorization", "Bearer "+r.key)
		agents.ServeHTTP(w, q)
	})
	mux.HandleFunc("POST "+base+"/seal", r.sealOnDemand)
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- h.Serve(l) }()
	url := "http://" + l.Addr().String() + base
	note := recorderNote(r.Out)
	err = os.WriteFile(note, []byte(url+"\n"), 0o600)
	if err == nil {
		if r.Stdio {
			err = stdiobridge.Run(ctx, stdiobridge.Config{URL: url + "/mcp", Credential: func() (string, error) { return r.key, nil }, In: r.In, Out: r.Stdout, Say: r.Say})
			if ctx.Err() != nil {
				err = nil
			}
		} else {
			r.Ready(url + "/mcp")
			select {
			case <-ctx.Done():
			case err = <-served:
			}
		}
	}
	closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = agents.Close(closing) // who has not been answered by now was not
	err = errors.Join(err, r.closeStage())
	// The demand to seal is answered once it is done.
	go func() {
		<-r.finished
		ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = h.Shutdown(ending)
	}()
	return errors.Join(err, gone(note))
}

// sealOnDemand ends the recording and seals it, for sallyport world seal.
func (r *recorder) sealOnDemand(w http.ResponseWriter, q *http.Request) {
	var demand sealDemand
	if err := json.NewDecoder(http.MaxBytesReader(w, q.Body, 1<<20)).Decode(&demand); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case r.sealing <- sealRequest{demand.Canaries}:
	default: // somebody else was first
	}
	r.quit()
	<-r.finished
	answer := sealAnswer{Recording: r.report}
	if r.err != nil {
		answer.Error = r.err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

type sealDemand struct {
	Canaries [][]byte `json:"canaries"`
}

type sealAnswer struct {
	*Recording
	Error string `json:"error,omitempty"`
}

// seal looks for what must not be in the file, and closes it with what it found.
func (r *recorder) seal() (*Recording, error) {
	done := r.writer.Report()
	out := &Recording{File: r.Out, Upstream: r.Upstream, Stage: r.Stage, Calls: done.Calls, Replaced: done.Replaced, Dropped: done.Dropped}
	canaries := r.Canaries
	select {
	case more := <-r.sealing:
		canaries = append(canaries, more.canaries...)
	default:
	}
	if err := r.file.Close(); err != nil {
		return out, err
	}
	if done.Calls == 0 {
		return out, errors.Join(sallyport.Refuse(sallyport.NotFound, "nothing was called, so there is nothing to keep", "connect a client, let it work, and end with Ctrl-C"), os.Remove(r.Out))
	}
	recorded, err := os.ReadFile(r.Out)
	if err != nil {
		return out, err
	}
	sealed, sealing, err := cassette.Seal(recorded, r.writer.Originals(), canaries)
	out.Searched, out.Unsearched = sealing.Originals, sealing.Unsearched
	var leak *cassette.Leak
	if errors.As(err, &leak) {
		out.Hits = hitsOf(leak.Hits)
		return out, &Leaks{out.Hits}
	}
	if err != nil {
		return out, err
	}
	if err := writeWhole(r.Out, sealed); err != nil {
		return out, err
	}
	out.Sealed = true
	return out, nil
}

// SealRecording seals a recording that is being made, by the program that makes it, or
// looks once more into one that is sealed. Nobody else knows what was replaced.
func SealRecording(ctx context.Context, file string, canaries [][]byte) (*Recording, error) {
	note, err := os.ReadFile(recorderNote(file))
	switch {
	case err == nil:
		return askRecorder(ctx, file, strings.TrimSpace(string(note)), canaries)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sallyport.Refuse(sallyport.NotFound, "there is no file "+file, "")
	}
	if err != nil {
		return nil, err
	}
	c, err := cassette.Parse(data, cassette.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if c.Sealed == "" {
		return nil, sallyport.Refuse(sallyport.Conflict, file+" was left unsealed by its recorder, and what was replaced in it was known to that program alone", "record again; a recording is sealed when its recorder ends")
	}
	out := &Recording{File: file, Upstream: c.Header.Upstream, Calls: len(c.Calls), Replaced: map[string]int{}, Sealed: true}
	found, err := cassette.Search(data, canaries)
	if out.Searched = len(canaries); err == nil && len(found) > 0 {
		out.Hits = hitsOf(found)
		return out, &Leaks{out.Hits}
	}
	return out, err
}

func askRecorder(ctx context.Context, file, url string, canaries [][]byte) (*Recording, error) {
	body, err := json.Marshal(sealDemand{canaries})
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/seal", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(q)
	if err != nil {
		return nil, sallyport.Refuse(sallyport.Conflict, "the recorder of "+file+" does not answer any more, and what was replaced was known to it alone",
			"delete "+file+" and "+recorderNote(file)+", and record again")
	}
	defer res.Body.Close()
	var answer sealAnswer
	if err := json.NewDecoder(io.LimitReader(res.Body, 16<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("what the recorder of %s answers: %w", file, err)
	}
	switch {
	case len(answer.Hits) > 0:
		return answer.Recording, &Leaks{answer.Hits}
	case answer.Error != "":
		return answer.Recording, errors.New(answer.Error)
	}
	return answer.Recording, nil
}

// Call passes a request on, and writes a tool's call down before it is answered.
func (r *recorder) Call(ctx context.Context, x *gateway.Exchange) gateway.Reply {
	if x.Credential != r.key {
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Unauthenticated, "the credential is not known", "")}
	}
	if x.Message.Method != wire.MethodToolsCall {
		return r.pass(ctx, x)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return gateway.Reply{Refusal: r.broken}
	}
	if err := r.Permitted(ctx, x.Message.Name); err != nil {
		r.Say(err.Error())
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Halted, "this is stopped", "try again later")}
	}
	began := time.Now()
	reply := r.pass(ctx, x)
	if reply.Refusal != nil {
		// What may have happened and is not in the recording makes what follows it wrong.
		if sent, known := reply.Refusal.Detail["sent"].(bool); !known || sent {
			r.stop(fmt.Errorf("a call of %s got no answer (%s), so what follows would not fit what was recorded", x.Message.Name, reply.Refusal.Reason))
		}
		return reply
	}
	raw := cassette.Raw{
		Since: began.Sub(r.began), Tool: x.Message.Name, Arguments: x.Message.Arguments.Of(x.Message.Raw), Result: reply.Result, Error: reply.Error,
		Access: sallyport.Changing, Latency: time.Since(began), Classes: r.classes[x.Message.Name],
	}
	if t := r.tools[x.Message.Name]; t != nil && t.Access == sallyport.Read {
		raw.Access = sallyport.Read
	}
	if err := r.writer.Append(raw); err != nil {
		r.stop(err)
		return gateway.Reply{Refusal: r.broken}
	}
	return reply
}

// stop ends what can be recorded.
func (r *recorder) stop(err error) {
	r.Say("the recording ends here: " + err.Error())
	r.broken = sallyport.Refuse(sallyport.RecordFailed, "this cannot be recorded any more", "end the recording and begin another")
}

func (r *recorder) pass(ctx context.Context, x *gateway.Exchange) gateway.Reply {
	fail := func(err error) gateway.Reply {
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) {
			refusal = sallyport.Refuse(sallyport.UpstreamUnavailable, err.Error(), "")
		}
		return gateway.Reply{Refusal: refusal}
	}
	backend, err := r.stage.Backend(&r.of)
	if err != nil {
		return fail(err)
	}
	q := &gateway.Request{
		Message: x.Message, Method: x.Message.Method, Era: x.Era, Session: x.Session, Notify: x.Notify,
		MaxResult: cmp.Or(r.of.MaxResult, 4<<20), Owner: r.key,
	}
	for name, values := range x.Headers {
		if strings.HasPrefix(name, "Mcp-Param-") {
			if q.ParamHeaders == nil {
				q.ParamHeaders = http.Header{}
			}
			q.ParamHeaders[name] = values
		}
	}
	if x.Session != nil {
		q.Ask = x.Session.Ask
	}
	res, err := backend.Do(ctx, q)
	if err != nil {
		return fail(err)
	}
	if res.Held != nil {
		res.Held.Drop()
	}
	m := &res.Message
	if m.Kind == wire.Error {
		return gateway.Reply{Error: m.Error.Of(m.Raw)}
	}
	return gateway.Reply{Result: m.Result.Of(m.Raw)}
}

// Tools are those the upstream offers, byte for byte.
func (r *recorder) Tools(context.Context, string) (*gateway.ToolList, error) {
	list := &gateway.ToolList{Etag: r.etag}
	for _, t := range r.found.Tools {
		list.Definitions = append(list.Definitions, t)
	}
	return list, nil
}

// List passes a list of resources or prompts on.
func (r *recorder) List(ctx context.Context, x *gateway.Exchange) gateway.Reply {
	return r.pass(ctx, x)
}

// Describe says what the upstream says of itself.
func (r *recorder) Describe(_ context.Context, credential string) (*gateway.Description, error) {
	if credential != r.key {
		return nil, sallyport.Refuse(sallyport.Unauthenticated, "the credential is not known", "")
	}
	return &gateway.Description{Key: "key_recorder", Capabilities: r.caps, Instructions: r.found.Server.Instructions}, nil
}

// Listen subscribes to nothing.
func (r *recorder) Listen(context.Context, *gateway.Exchange, []string, *gateway.Listener) []string {
	return nil
}

// EndListener ends nothing.
func (r *recorder) EndListener(*gateway.Listener) {}

// CloseSession ends the upstream's session that belongs to a client's.
func (r *recorder) CloseSession(s *gateway.Session) { r.stage.Forget(s) }
