package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"sallyport"
)

// SecretRoots say where secret references may lead. A reference is "env:NAME",
// an environment variable whose name begins with one of the prefixes Env, or
// "file:path", a file under one of the directories Files; any other reference
// leads nowhere. Both lists empty: no secrets at all.
type SecretRoots struct {
	// Files are directories, relative to the project directory or absolute,
	// cleaned and with slashes. Paths of references are compared with them as
	// text: whoever reads the files must not follow a symbolic link out of its
	// root (os.Root does not).
	Files []string `json:"files"`
	// Env are prefixes of names of environment variables.
	Env []string `json:"env"`
}

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// Check reports why a reference leads nowhere, nil if it may be resolved. It
// reads nothing. The error does not repeat the reference, which may be a secret
// that somebody wrote down where its reference belongs.
func (s SecretRoots) Check(ref string) error {
	switch kind, rest, _ := strings.Cut(ref, ":"); kind {
	case "env":
		if !envName.MatchString(rest) {
			return errors.New("not the name of an environment variable")
		}
		if !slices.ContainsFunc(s.Env, func(prefix string) bool { return prefix != "" && strings.HasPrefix(rest, prefix) }) {
			return fmt.Errorf("environment variables that hold secrets begin with %s", either(s.Env))
		}
		return nil
	case "file":
		if rest == "" || !utf8.ValidString(rest) || strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
			return errors.New("not a path with slashes")
		}
		if slices.Contains(strings.Split(rest, "/"), "..") {
			return errors.New(`the path of a secret may not go up with ".."`)
		}
		clean := path.Clean(rest)
		if !slices.ContainsFunc(s.Files, func(root string) bool { return within(root, clean) }) {
			return fmt.Errorf("files that hold secrets lie under %s", either(s.Files))
		}
		return nil
	}
	return errors.New("not a secret reference")
}

// within reports whether a clean path lies under a clean directory; "." holds
// every relative path.
func within(dir, p string) bool {
	if dir == "." {
		return !path.IsAbs(p) && p != "." && p != ".." && !strings.HasPrefix(p, "../")
	}
	return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func either(roots []string) string {
	if len(roots) == 0 {
		return "nothing: none are configured"
	}
	return strings.Join(roots, " or ")
}

// Resolve is the secret a reference leads to. getenv is os.LookupEnv or the
// like; readFile gets the cleaned path of the reference, relative to the project
// directory or absolute, and must not follow a symbolic link out of the root.
// One newline at the end of a file is not part of the secret. Errors never hold
// the secret; that there is no such variable or file wraps [fs.ErrNotExist].
func (s SecretRoots) Resolve(ref string, getenv func(string) (string, bool), readFile func(string) ([]byte, error)) (string, error) {
	if err := s.Check(ref); err != nil {
		return "", fmt.Errorf("secret reference: %w", err)
	}
	kind, rest, _ := strings.Cut(ref, ":")
	var secret string
	if kind == "env" {
		value, ok := getenv(rest)
		if !ok {
			return "", fmt.Errorf("secret %s: the environment variable is not set: %w", ref, fs.ErrNotExist)
		}
		secret = value
	} else {
		b, err := readFile(path.Clean(rest))
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("secret %s: there is no such file: %w", ref, fs.ErrNotExist)
		}
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", ref, err)
		}
		secret = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	}
	switch {
	case secret == "":
		return "", fmt.Errorf("secret %s: it is empty", ref)
	case len(secret) > maxSecret:
		return "", fmt.Errorf("secret %s: it is longer than %d bytes", ref, maxSecret)
	case strings.ContainsFunc(privateKey.ReplaceAllString(secret, ""), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		// A line break in a header would be two headers. Private keys have lines, and
		// who writes headers looks again.
		return "", fmt.Errorf("secret %s: it holds a line break or another control character", ref)
	}
	return secret, nil
}

// privateKey matches a text that is a private key in PEM and nothing else.
var privateKey = regexp.MustCompile(`^-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=\r\n]+-----END [A-Z ]*PRIVATE KEY-----\s*$`)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// isReference reports whether a value is meant to be a secret reference.
func isReference(s string) bool {
	return strings.HasPrefix(s, "env:") || strings.HasPrefix(s, "file:")
}

// masked stands where a secret was.
const masked = "•••"

var (
	// secretName is a key whose value is a secret, or part of such a key.
	secretName = regexp.MustCompile(`(?i)credential|secret|token|passw|pwd|passphrase|api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|authori[sz]ation|cookie|bearer|signature`)
	// secretPrefix begins what well-known issuers hand out.
	secretPrefix = regexp.MustCompile(`(?:\b(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9_-]{8,}|\bgh[pousr]_[A-Za-z0-9]{8,}|\bgithub_pat_[A-Za-z0-9_]{8,}|\bglpat-[A-Za-z0-9_-]{8,}|\bxox[abeoprs]-[A-Za-z0-9-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[A-Za-z0-9_-]{16,}|\bya29\.[A-Za-z0-9_-]{8,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?|\bnpm_[A-Za-z0-9]{16,}|\bhf_[A-Za-z0-9]{16,}|\bSG\.[A-Za-z0-9_-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY|(?i:\b(?:bearer|basic)\s+[A-Za-z0-9+/=._-]{8,}))`)
	// secretRun is a run of letters and digits long enough to be random.
	secretRun = regexp.MustCompile(`[A-Za-z0-9+_=-]{20,}`)
	// secretAfter is a key like secretName's and what follows it on its line.
	secretAfter = regexp.MustCompile(`((?i:[A-Za-z0-9_-]*(?:credential|secret|token|passw|pwd|passphrase|api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|authori[sz]ation|cookie|bearer|signature)[A-Za-z0-9_-]*)["']?\s*[:=]\s*)([^\s,}\]{\[#][^,}\]]*)`)
	// userinfo is a user name and password within a URL.
	userinfo = regexp.MustCompile(`://[^/?#\s"']*@`)
)

// looksSecret reports whether a value looks like a secret itself.
func looksSecret(s string) bool {
	return secretPrefix.MatchString(s) || slices.ContainsFunc(secretRun.FindAllString(s, -1), random) || userinfo.MatchString(s)
}

// random reports whether a run of characters looks drawn by lot: letters of both
// cases and digits, of which few repeat. Names that people give do not.
func random(run string) bool {
	var upper, lower, digits int
	count := map[rune]int{}
	for _, r := range run {
		count[r]++
		switch {
		case r >= '0' && r <= '9':
			digits++
		case r >= 'a' && r <= 'z':
			lower++
		case r >= 'A' && r <= 'Z':
			upper++
		}
	}
	bits := 0.0
	for _, n := range count {
		p := float64(n) / float64(len(run))
		bits -= p * math.Log2(p)
	}
	if digits < 2 || bits < 3.5 {
		return false
	}
	return upper >= 2 && lower >= 2
}

// harmless are values that may follow the name of any tool or argument.
var harmless = slices.Concat([]string{"true", "false", "null"},
	enumWords(reflect.TypeFor[sallyport.ArgKind]()), enumWords(reflect.TypeFor[sallyport.Binding]()), enumWords(reflect.TypeFor[sallyport.Access]()))

var digits = regexp.MustCompile(`^[0-9]+$`)

// namesSecret reports whether a key names a secret, or would if it were spelled
// right.
func namesSecret(key string) bool {
	return secretName.MatchString(key) ||
		nearest(key, []string{"credential", "credentials", "secret", "token", "password", "authorization", "api_key", "cookie"}) != ""
}

// speaksOfSecret reports whether value v of a key would be a secret written down:
// the key names one, and v is neither a reference nor a count of tokens.
func speaksOfSecret(key, v string) bool {
	if !namesSecret(key) || v == "" || slices.Contains(harmless, v) {
		return false
	}
	if isReference(v) && !looksSecret(v) {
		return false
	}
	return !digits.MatchString(v) || !strings.Contains(strings.ToLower(key), "tokens")
}

// maskSecrets is a line with everything that looks like a secret replaced, and
// everything after a key that names one unless it is a reference.
func maskSecrets(line string) string {
	line = userinfo.ReplaceAllString(line, "://"+masked+"@")
	line = secretAfter.ReplaceAllStringFunc(line, func(found string) string {
		m := secretAfter.FindStringSubmatch(found)
		value := strings.Trim(strings.TrimSpace(m[2]), `"'`)
		if !speaksOfSecret(m[1], value) {
			return found
		}
		return m[1] + masked
	})
	line = secretPrefix.ReplaceAllString(line, masked)
	return secretRun.ReplaceAllStringFunc(line, func(run string) string {
		if random(run) {
			return masked
		}
		return run
	})
}

// continued matches a line that can only be the rest of the value of a line
// above it: neither a key with its value nor the entry of a list.
var (
	keyLine   = regexp.MustCompile(`^\s*(?:["']?[A-Za-z0-9_.$-]+["']?\s*:(?:\s|$)|-\s|#|$)`)
	openValue = regexp.MustCompile(`(?i)^\s*["']?[A-Za-z0-9_-]*(?:credential|secret|token|passw|pwd|passphrase|api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|authori[sz]ation|cookie|bearer|signature)[A-Za-z0-9_-]*["']?\s*:`)
)

// continuesSecret reports whether line i (from zero) goes on with the value of a
// key that names a secret, as in a block scalar.
func continuesSecret(lines []string, i int) bool {
	if keyLine.MatchString(lines[i]) {
		return false
	}
	for j := i - 1; j >= 0 && i-j < 64; j-- {
		if len(lines[j]) > 4<<10 {
			return true
		}
		if openValue.MatchString(lines[j]) {
			return true
		}
		if keyLine.MatchString(lines[j]) && strings.TrimSpace(lines[j]) != "" {
			return false
		}
	}
	return false
}

// brokenExcerpt is line n of a file that could not be read, so that only its text
// tells what is a secret: it ends where something names one, and a line that has
// no key is left out if a line above it, up to one with a key, does.
func brokenExcerpt(lines []string, n int) string {
	if n < 1 || n > len(lines) {
		return ""
	}
	for i := n - 1; i >= 0 && n-i < 64; i-- {
		if i < n-1 && brokenSecret(lines[i]) > 0 {
			return masked
		}
		if mapKey.MatchString(lines[i]) {
			break
		}
	}
	if end := brokenSecret(lines[n-1]); end > 0 {
		return excerpt([]string{lines[n-1][:end]}, 1) + " " + masked
	}
	return excerpt(lines, n)
}

// brokenSecret is where the first word of a line ends that names a secret, zero
// if none does.
func brokenSecret(line string) int {
	if at := secretName.FindStringIndex(line); at != nil {
		return at[1]
	}
	for _, at := range anyKey.FindAllStringSubmatchIndex(line, -1) {
		if namesSecret(line[at[2]:at[3]]) {
			return at[3]
		}
	}
	return 0
}

var anyKey = regexp.MustCompile(`([A-Za-z0-9_-]+)["']?\s*[:=]`)

var mapKey = regexp.MustCompile(`^\s*["']?[A-Za-z0-9_.$-]+["']?\s*:`)

// collectSecrets finds the values of keys that name a secret, wherever they are:
// also ones that will be an unknown key or of a wrong type.
func (d *document) collectSecrets(n *yaml.Node) {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Value == "secrets": // says where they are
		case v.Kind == yaml.ScalarNode:
			d.secret(k.Value, v.Value)
		case v.Kind == yaml.SequenceNode:
			var values []string
			for _, e := range v.Content {
				values = append(values, e.Value)
			}
			for i, value := range values {
				if d.secret(k.Value, value); secretArg(values, i) {
					d.hide(value)
				}
			}
		}
	}
	for _, c := range n.Content {
		d.collectSecrets(c)
	}
}

func (d *document) secret(key, v string) {
	if len(v) >= 4 && speaksOfSecret(key, v) {
		d.hide(v)
	}
}

// hide keeps every line of a value out of what is said of the document.
func (d *document) hide(v string) {
	for line := range strings.SplitSeq(v, "\n") {
		if line = strings.TrimSpace(line); len(line) >= 4 && !slices.Contains(d.secrets, line) && len(d.secrets) < 1000 {
			d.secrets = append(d.secrets, line)
		}
	}
}

// hidden is problems of the document without its secrets.
func (d *document) hidden(problems Problems) Problems {
	for _, secret := range d.secrets {
		for i := range problems {
			p := &problems[i]
			p.Message = strings.ReplaceAll(p.Message, secret, masked)
			p.Excerpt = strings.ReplaceAll(p.Excerpt, secret, masked)
			p.Hint = strings.ReplaceAll(p.Hint, secret, masked)
		}
	}
	return problems
}

// SecretValue reports whether [Load] takes a value under this name, of a header or
// an environment variable, for a secret, and refuses to have it written down.
func SecretValue(name, value string) bool {
	return value != "" && (secretName.MatchString(name) || looksSecret(value))
}

// SecretArg reports the same of argument i of a command.
func SecretArg(command []string, i int) bool { return secretArg(command, i) }
