package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sallyport"
	"sallyport/internal/clients"
	"sallyport/internal/config"
)

// ImportOptions say how a client's configuration becomes a project.
type ImportOptions struct {
	Dir   string // of the project; it need not exist
	Text  []byte // of the client's file
	Agent sallyport.AgentID
	Owner string
	// Stage is the one in which the servers are reached: staging or production.
	Stage sallyport.Stage
	// WorkDir stands for the client's own directory where the file speaks of it, and
	// Environ is os.LookupEnv or the like.
	WorkDir string
	Environ func(string) (string, bool)
	// Own is the endpoint of this installation, which is no upstream of itself.
	Own string
}

// Import is a client's configuration on its way into a project directory. Files
// that exist are never written over.
type Import struct {
	Kind    string            `json:"kind"` // what the file was taken for
	Agent   sallyport.AgentID `json:"agent"`
	Servers []*ImportedServer `json:"servers"`
	Files   []string          `json:"files"` // written, or to be written
	Assumed []string          `json:"assumed"`
	// Problems are what the project has to be corrected for before it can be applied.
	Problems []string `json:"problems,omitempty"`

	o       ImportOptions
	texts   map[string][]byte // by path, with slashes
	secrets string            // folder
	written map[string]bool
}

// ImportedServer is one server of the file.
type ImportedServer struct {
	Name     string               `json:"name"`
	Upstream sallyport.UpstreamID `json:"upstream"`
	Reached  string               `json:"reached"` // its url, or its command
	// Left says why it is not imported, "" if it is.
	Left    string        `json:"left,omitempty"`
	Secrets []MovedSecret `json:"secrets,omitempty"`
	Notes   []string      `json:"notes,omitempty"`
	// Asked is "" once it has said what it offers, or why it could not be asked.
	Asked string         `json:"asked"`
	Tools []ImportedTool `json:"tools,omitempty"`

	stage stageText
}

// ImportedTool is a tool of an imported server.
type ImportedTool struct {
	Name string `json:"name"`
	// SaysRead is what the server says of it; Read is what a person declared.
	SaysRead bool `json:"says_read"`
	Read     bool `json:"read"`
}

// MovedSecret is a secret that was in the client's file.
type MovedSecret struct {
	What string `json:"what"` // where it was
	File string `json:"file"` // where it is
	// Missing says that the file only named it: a person has to write the file.
	Missing bool `json:"missing"`

	value string
}

// What is written of an upstream.
type (
	upstreamText struct {
		Upstream sallyport.UpstreamID `yaml:"upstream"`
		Stages   struct {
			Sandbox    stageText  `yaml:"sandbox"`
			Staging    *stageText `yaml:"staging,omitempty"`
			Production *stageText `yaml:"production,omitempty"`
		} `yaml:"stages"`
		Tools map[string]toolText `yaml:"tools,omitempty"`
	}
	stageText struct {
		Binding    string            `yaml:"binding"`
		Era        string            `yaml:"era,omitempty"`
		URL        string            `yaml:"url,omitempty"`
		Credential string            `yaml:"credential,omitempty"`
		Headers    map[string]string `yaml:"headers,omitempty"`
		Command    []string          `yaml:"command,omitempty,flow"`
		Dir        string            `yaml:"dir,omitempty"`
		Env        map[string]string `yaml:"env,omitempty"`
		Recheck    string            `yaml:"recheck,omitempty"`
	}
	toolText struct {
		Access string `yaml:"access"`
	}
	agentText struct {
		Agent     sallyport.AgentID      `yaml:"agent"`
		Owner     string                 `yaml:"owner"`
		Tier      string                 `yaml:"tier"`
		Upstreams []sallyport.UpstreamID `yaml:"upstreams,flow"`
		Policies  []string               `yaml:"policies,flow"`
	}
)

// PlanImport reads a client's file and says what would become of it. It writes
// nothing.
func PlanImport(o ImportOptions) (*Import, error) {
	f, err := clients.Read(o.Text)
	if err != nil {
		return nil, err
	}
	im := &Import{Kind: f.Kind, Agent: o.Agent, o: o, texts: map[string][]byte{}, written: map[string]bool{}, secrets: "secrets"}
	base, err := Template("minimal")
	if err != nil {
		return nil, err
	}
	if p, _ := config.Load(os.DirFS(o.Dir)); p != nil {
		if files := p.Server.Secrets.Files; len(files) > 0 && filepath.IsLocal(files[0]) {
			im.secrets = files[0]
		}
	}
	for name, text := range base {
		if !strings.Contains(name, "/") || strings.HasPrefix(name, ".sallyport/") {
			if _, err := os.Lstat(im.path(name)); errors.Is(err, fs.ErrNotExist) {
				im.texts[name] = []byte(text)
			}
		}
	}
	im.Assumed = append(im.Assumed, f.Notes...)
	taken := map[sallyport.UpstreamID]bool{}
	for i := range f.Servers {
		s := im.server(&f.Servers[i], taken)
		im.Servers = append(im.Servers, s)
		if s.Left == "" {
			im.texts[s.path()] = im.upstream(s)
			for _, m := range s.Secrets {
				if !m.Missing {
					im.texts[m.File] = []byte(m.value + "\n")
				}
			}
			if why := im.unsound(s); why != "" {
				s.Left = why
				delete(im.texts, s.path())
				for _, m := range s.Secrets {
					delete(im.texts, m.File)
				}
				s.Secrets, s.Reached = nil, ""
			}
		}
	}
	if len(im.kept()) == 0 {
		return im, sallyport.Refuse(sallyport.BadRequest, "the file names no server that can be imported", "see why each was left out")
	}
	im.texts[im.agentPath()], im.texts[im.policyPath()] = nil, nil // written last
	im.assume()
	var there []string
	for name := range im.texts {
		if _, err := os.Lstat(im.path(name)); !errors.Is(err, fs.ErrNotExist) {
			there = append(there, name)
		}
		im.Files = append(im.Files, name)
	}
	slices.Sort(im.Files)
	if len(there) > 0 {
		slices.Sort(there)
		return im, sallyport.Refuse(sallyport.Conflict, "files exist that would be written: "+strings.Join(there, ", ")+"; nothing was written",
			"choose another --dir or --agent, or rename the server in the file")
	}
	return im, nil
}

func (im *Import) path(name string) string { return filepath.Join(im.o.Dir, filepath.FromSlash(name)) }
func (im *Import) agentPath() string       { return "agents/" + string(im.o.Agent) + ".yaml" }
func (im *Import) policyPath() string      { return "policies/" + string(im.o.Agent) + ".cedar" }
func (s *ImportedServer) path() string     { return "upstreams/" + string(s.Upstream) + ".yaml" }
func (im *Import) kept() []*ImportedServer {
	return slices.DeleteFunc(slices.Clone(im.Servers), func(s *ImportedServer) bool { return s.Left != "" })
}

func (im *Import) assume() {
	say := func(format string, args ...any) { im.Assumed = append(im.Assumed, fmt.Sprintf(format, args...)) }
	say("the servers are the real systems: they are reached in %s, by releases that people have promoted there, and in no other stage", im.o.Stage)
	say("in the sandbox all their tools are simulated: answers are made up to fit what the tools declare")
	say("every tool changes something, unless you declared that it only reads; results are restricted and untrusted")
	say("the first policy permits what you declared a read, and nothing else")
	say("agent %s is of high risk and answers to %s", im.o.Agent, im.o.Owner)
	for _, s := range im.kept() {
		if len(s.stage.Command) > 0 {
			say("programs get PATH and HOME as they are here, what the file gives them, and nothing else of this environment")
			break
		}
	}
	moved := slices.ContainsFunc(im.kept(), func(s *ImportedServer) bool { return len(s.Secrets) > 0 })
	if _, fresh := im.texts[".gitignore"]; moved && !fresh {
		say("your .gitignore keeps %s/ out of git: see to it that it does", im.secrets)
	}
}

// notName is what cannot be in the name of an upstream.
var notName = regexp.MustCompile(`[^a-z0-9]+`)

// server makes an upstream of a server.
func (im *Import) server(of *clients.Server, taken map[sallyport.UpstreamID]bool) *ImportedServer {
	s := &ImportedServer{Name: of.Name, Left: of.Broken, Asked: "not asked yet"}
	name := strings.Trim(notName.ReplaceAllString(strings.ToLower(of.Name), "-"), "-")
	name = strings.Trim(name[:min(len(name), 56)], "-")
	if name == "" {
		name = "server"
	}
	s.Upstream = sallyport.UpstreamID(name)
	for n := 2; taken[s.Upstream]; n++ {
		s.Upstream = sallyport.UpstreamID(fmt.Sprintf("%s-%d", name, n))
	}
	taken[s.Upstream] = true
	if im.o.Own != "" && of.URL == im.o.Own || filepath.Base(of.Command) == "sallyport" && slices.Contains(of.Args, "bridge") {
		s.Left = "it is Sallyport itself"
	}
	if s.Left != "" {
		return s
	}
	for _, field := range of.Notes {
		s.Notes = append(s.Notes, fmt.Sprintf("its %q is not carried over", field))
	}
	s.stage = stageText{Binding: sallyport.Live.String()}
	if of.URL != "" {
		im.overHTTP(s, of)
	} else {
		im.program(s, of)
	}
	return s
}

func (im *Import) overHTTP(s *ImportedServer, of *clients.Server) {
	address, missing := im.expand(s, of.URL)
	if len(missing) > 0 {
		s.Left = "its url needs " + strings.Join(missing, ", ") + ", which is not set here"
		return
	}
	s.stage.URL, s.Reached = address, address
	for _, name := range slices.Sorted(maps.Keys(of.Headers)) {
		value, missing := im.expand(s, of.Headers[name])
		bearer, isBearer := strings.CutPrefix(value, "Bearer ")
		switch {
		case strings.EqualFold(name, "Authorization") && isBearer && s.stage.Credential == "":
			s.stage.Credential = im.secret(s, "header "+name, "credential", bearer, missing)
		case len(missing) > 0 || config.SecretValue(name, value):
			im.header(s, name, im.secret(s, "header "+name, name, value, missing))
		default:
			im.header(s, name, value)
		}
	}
}

func (im *Import) header(s *ImportedServer, name, value string) {
	if s.stage.Headers == nil {
		s.stage.Headers = map[string]string{}
	}
	s.stage.Headers[name] = value
}

// argVariable begins the names of the variables that secret arguments are moved to.
const argVariable = "SALLYPORT_ARG_"

func (im *Import) program(s *ImportedServer, of *clients.Server) {
	command := append([]string{of.Command}, of.Args...)
	env := map[string]string{}
	for _, name := range []string{"HOME", "PATH"} {
		if v, ok := im.o.Environ(name); ok {
			env[name] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(of.Env)) {
		value, missing := im.expand(s, of.Env[name])
		if len(missing) > 0 || config.SecretValue(name, value) {
			value = im.secret(s, "environment variable "+name, name, value, missing)
		}
		env[name] = value
	}
	words, hidden := make([]string, len(command)), false
	for i := range command {
		var missing []string
		command[i], missing = im.expand(s, command[i])
		words[i] = shellWord(command[i])
		if len(missing) > 0 || config.SecretArg(command, i) {
			variable := fmt.Sprintf("%s%d", argVariable, i)
			env[variable] = im.secret(s, fmt.Sprintf("argument %d", i), fmt.Sprintf("arg-%d", i), command[i], missing)
			words[i], hidden = `"$`+variable+`"`, true
		}
	}
	s.stage.Command, s.stage.Env = command, env
	if hidden {
		// A reference cannot stand among arguments: a shell puts the secret there.
		s.stage.Command = []string{"/bin/sh", "-c", "exec " + strings.Join(words, " ")}
		s.Notes = append(s.Notes, "an argument is a secret: a shell reads it from the environment, and every user of this machine can see it while the program runs")
	}
	s.Reached = strings.Join(s.stage.Command, " ")
	if of.Dir != "" {
		dir, missing := im.expand(s, of.Dir)
		if len(missing) > 0 {
			s.Left = "its directory needs " + strings.Join(missing, ", ") + ", which is not set here"
			return
		}
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(im.o.WorkDir, dir)
		}
		s.stage.Dir = dir
	} else {
		s.stage.Dir = im.o.WorkDir
	}
}

// shellWord is a word as a POSIX shell reads it back.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=,+%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// placeholder is what clients put values in place of: ${VAR} and ${VAR:-default} of
// Claude Code, ${env:VAR} of Cursor and VS Code, ${input:id} of VS Code, and the
// names of directories.
var placeholder = regexp.MustCompile(`\$\{([^{}]*)\}`)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand is a text with the values that can be had here, and what could not.
func (im *Import) expand(s *ImportedServer, text string) (out string, missing []string) {
	out = placeholder.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-1]
		switch name {
		case "workspaceFolder", "workspaceRoot", "cwd":
			return im.o.WorkDir
		case "workspaceFolderBasename":
			return filepath.Base(im.o.WorkDir)
		case "userHome":
			name = "HOME"
		case "pathSeparator", "/":
			return string(filepath.Separator)
		}
		if id, ok := strings.CutPrefix(name, "input:"); ok {
			missing = append(missing, "what the client asked for as "+id)
			return ""
		}
		name, otherwise, hasDefault := strings.Cut(strings.TrimPrefix(name, "env:"), ":-")
		if !variableName.MatchString(name) {
			return found
		}
		if v, ok := im.o.Environ(name); ok && v != "" {
			return v
		}
		if !hasDefault {
			missing = append(missing, "the environment variable "+name)
		}
		return otherwise
	})
	return out, missing
}

// secret moves a secret to a file and returns the reference to it.
func (im *Import) secret(s *ImportedServer, what, name, value string, missing []string) string {
	name = strings.Trim(notName.ReplaceAllString(strings.ToLower(name), "-"), "-")
	file := path.Join(im.secrets, string(s.Upstream)+"-"+name)
	for n := 2; slices.ContainsFunc(s.Secrets, func(m MovedSecret) bool { return m.File == file }); n++ {
		file = path.Join(im.secrets, fmt.Sprintf("%s-%s-%d", s.Upstream, name, n))
	}
	m := MovedSecret{What: what, File: file, Missing: len(missing) > 0, value: value}
	s.Secrets = append(s.Secrets, m)
	if m.Missing {
		s.Notes = append(s.Notes, fmt.Sprintf("%s needs %s, which is not known here: write the value into %s (chmod 600)", what, strings.Join(missing, ", "), file))
	}
	return "file:" + file
}

// upstream is the text of an upstream's file.
func (im *Import) upstream(s *ImportedServer) []byte {
	u := upstreamText{Upstream: s.Upstream}
	u.Stages.Sandbox = stageText{Binding: sallyport.Simulate.String()}
	if im.o.Stage == sallyport.Staging {
		u.Stages.Staging = &s.stage
	} else {
		u.Stages.Production = &s.stage
	}
	for _, t := range s.Tools {
		if u.Tools == nil {
			u.Tools = map[string]toolText{}
		}
		access := sallyport.Changing
		if t.Read {
			access = sallyport.Read
		}
		u.Tools[t.Name] = toolText{access.String()}
	}
	return document("../.sallyport/schema/upstream.json", "Imported from an MCP client. What you know of its tools, say under tools.", u)
}

// document is a file of the project.
func document(schema, says string, v any) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# yaml-language-server: $schema=%s\n# %s\n", schema, says)
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(v), e.Close()); err != nil {
		panic(err) // these have a form in YAML
	}
	return b.Bytes()
}

// unsound says why an upstream cannot be as it was made.
func (im *Import) unsound(s *ImportedServer) string {
	fsys := fs.FS(replaced{os.DirFS(im.o.Dir), s.path(), im.texts[s.path()]})
	if text := im.texts["sallyport.yaml"]; text != nil {
		fsys = replaced{fsys, "sallyport.yaml", text}
	}
	_, problems := config.LoadUpstream(fsys, s.Upstream)
	if len(problems) == 0 {
		return ""
	}
	why := problems[0].Message
	if problems[0].Hint != "" {
		why += " (" + problems[0].Hint + ")"
	}
	return why
}

// Write writes what is needed to ask the servers what they offer: what a project
// has to have, the upstreams and their secrets.
func (im *Import) Write() error {
	for _, name := range im.Files {
		if im.texts[name] == nil {
			continue
		}
		if err := im.write(name); err != nil {
			return err
		}
	}
	return nil
}

// write writes a file that is not there, or that this import has written.
func (im *Import) write(name string) error {
	mode, folder, flag := fs.FileMode(0o644), fs.FileMode(0o755), os.O_EXCL
	if strings.HasPrefix(name, im.secrets+"/") {
		mode, folder = 0o600, 0o700
	}
	if im.written[name] {
		flag = os.O_TRUNC
	}
	at := im.path(name)
	if err := os.MkdirAll(filepath.Dir(at), folder); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|flag, mode)
	if err != nil {
		return err
	}
	im.written[name] = true
	_, err = f.Write(im.texts[name])
	return errors.Join(err, f.Close())
}

// Ask asks one server what it offers, and pins it to that. What is wrong with it is
// kept, and keeps nothing else from being imported.
func (im *Import) Ask(ctx context.Context, s *ImportedServer) {
	r, err := ProbePins(ctx, im.o.Dir, s.Upstream, im.o.Stage)
	if err == nil && r.Era != "" {
		s.stage.Era = r.Era
		im.texts[s.path()] = im.upstream(s)
		if err = im.write(s.path()); err == nil {
			r, err = ProbePins(ctx, im.o.Dir, s.Upstream, im.o.Stage)
		}
	}
	if err == nil {
		err = r.Write()
	}
	if err != nil {
		s.Asked = err.Error()
		return
	}
	s.Asked = ""
	im.Files = append(im.Files, r.Path)
	for _, t := range r.Tools {
		s.Tools = append(s.Tools, ImportedTool{Name: t.Name, SaysRead: saysRead(t.New)})
	}
	for _, t := range r.Unfit {
		im.Problems = append(im.Problems, fmt.Sprintf("tool %s of %s cannot be offered to agents and was left out: %s", t.Name, s.Upstream, t.Why))
	}
}

// saysRead is what a definition says of itself.
func saysRead(definition json.RawMessage) bool {
	var d struct {
		Annotations struct {
			ReadOnly    bool  `json:"readOnlyHint"`
			Destructive *bool `json:"destructiveHint"`
		} `json:"annotations"`
	}
	return json.Unmarshal(definition, &d) == nil && d.Annotations.ReadOnly && (d.Annotations.Destructive == nil || !*d.Annotations.Destructive)
}

// Finish writes down what was declared of the tools, the agent, and its policy.
func (im *Import) Finish() error {
	a := agentText{Agent: im.o.Agent, Owner: im.o.Owner, Tier: sallyport.TierHigh.String(), Policies: []string{im.policyPath()}, Upstreams: []sallyport.UpstreamID{}}
	reads := false
	for _, s := range im.kept() {
		if s.Asked != "" {
			continue
		}
		a.Upstreams = append(a.Upstreams, s.Upstream)
		reads = reads || slices.ContainsFunc(s.Tools, func(t ImportedTool) bool { return t.Read })
		im.texts[s.path()] = im.upstream(s)
		if err := im.write(s.path()); err != nil {
			return err
		}
	}
	policy := "// Nothing that is not permitted happens, and a policy that forbids wins over any\n// number that permit.\n"
	if reads {
		policy += "\n@id(\"declared-reads\")\npermit (principal, action in Action::\"read\", resource);\n"
	} else {
		policy += "//\n// No tool was declared a read yet, so nothing is permitted. Declare those that are in\n// upstreams/*.yaml, then permit them here:\n//\n//     @id(\"declared-reads\")\n//     permit (principal, action in Action::\"read\", resource);\n"
	}
	im.texts[im.policyPath()] = []byte(policy)
	im.texts[im.agentPath()] = document("../.sallyport/schema/agent.json", "Imported from an MCP client. Which stage it is in, people decide: sallyport promote.", a)
	for _, name := range []string{im.policyPath(), im.agentPath()} {
		if err := im.write(name); err != nil {
			return err
		}
	}
	slices.Sort(im.Files)
	_, problems := config.Load(os.DirFS(im.o.Dir))
	for _, p := range problems {
		im.Problems = append(im.Problems, fmt.Sprintf("%s:%d: %s", p.Path, p.Line, p.Message))
	}
	return nil
}
