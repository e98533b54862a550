package config

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"sallyport"
)

// claimOf is what a URL claims for its stage.
func claimOf(text string) (string, bool, *document) {
	d := &document{path: "x", root: &yaml.Node{Kind: yaml.MappingNode}}
	key, ok := d.url(text, true, "url")
	return key, ok, d
}

// TestOneEndpointHasOneSpelling: however people spell the address of an endpoint,
// it claims the same; another host, port or path claims something else.
func TestOneEndpointHasOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.SampledFrom([]string{"tools.example.com", "a.b", "10.1.2.3", "[2001:db8::1]", "localhost", "127.0.0.1", "[::1]", "127.8.8.8", "[::ffff:127.0.0.1]"}).Draw(t, "host")
		scheme := rapid.SampledFrom([]string{"http", "https"}).Draw(t, "scheme")
		port := rapid.SampledFrom([]string{"", ":80", ":443", ":8501", ":0443", ":"}).Draw(t, "port")
		path := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"mcp", "v1", "a%20b"}), 0, 3).Draw(t, "path"), "/")
		plain := scheme + "://" + host + port + "/" + path
		want, ok, d := claimOf(plain)
		if !ok {
			t.Fatalf("%s: %v", plain, d.problems)
		}
		spell := rapid.SampledFrom([]func(string) string{
			strings.ToUpper,
			func(h string) string {
				if strings.HasSuffix(h, "]") || strings.HasSuffix(h, "3") || strings.HasSuffix(h, "1") || strings.HasSuffix(h, "8") {
					return h
				}
				return h + "."
			},
			func(h string) string { return strings.ReplaceAll(h, "[2001:db8::1]", "[2001:0DB8:0:0::0001]") },
			func(h string) string {
				if h == "localhost" {
					return "127.0.0.1"
				}
				return h
			},
		}).Draw(t, "spelling")
		around := rapid.SampledFrom([]string{"/%s", "/./%s", "/x/../%s", "//%s", "/%s/", "/%s?tenant=1", "/%s/."}).Draw(t, "around")
		other := strings.ToUpper(scheme) + "://" + spell(host) + port + fmt.Sprintf(around, path)
		if got, ok, d := claimOf(other); !ok || got != want {
			t.Fatalf("%s claims %q and %s claims %q (%v)", plain, want, other, got, d.problems)
		}
		for _, else_ := range []string{scheme + "://other.example.com" + port + "/" + path, scheme + "://" + host + ":9999/" + path, plain + "/more"} {
			if got, _, _ := claimOf(else_); got == want {
				t.Fatalf("%s claims what %s does: %q", else_, plain, got)
			}
		}
	})
}

func TestURLsThatAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "/mcp", "tools.example.com", "ftp://tools.example.com/", "http:tools", "http://", "https:///mcp", "http://[::1", "http://a b/", "https://tools.example.com/#", "https://@tools.example.com/",
		"https://u@tools.example.com/", "https://tools.example.com:0/", "https://tools.example.com:65536/", "https://tools.example.com:x/", "http://0.0.0.0/", "http://[::]/", "http://[::ffff:0.0.0.0]/",
		"http://169.254.169.254/latest", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://224.0.0.1/", "http://127.1/", "http://0x7f.0.0.1/", "http://2130706433/", "http://127.0.0.01/", "http://1.2.3.4.5/",
		"https://tööls.example.com/", "https://tools..example.com/", "https://-/", "https://tools.example.com/?access_token=x", "https://tools.example.com/?a=1&Password=x", "https://tools.example.com/sk_live_abcdefgh1234",
		"https://tools.example.com/\x00", "javascript:alert(1)", "file:///etc/passwd", "http://127.0.0.1.5/",
	} {
		if key, ok, d := claimOf(text); ok || len(d.problems) == 0 {
			t.Errorf("%q is taken for %q", text, key)
		}
	}
	d := &document{path: "x", root: &yaml.Node{Kind: yaml.MappingNode}}
	for _, text := range []string{"http://tools.example.com/", "http://192.168.1.2/mcp", "http://localhost.example.com/", "http://128.0.0.1/"} {
		if _, ok := d.url(text, false, "url"); ok {
			t.Errorf("%q may be plain http", text)
		}
	}
	for _, text := range []string{"http://localhost:1/", "http://127.9.9.9/", "http://[::1]:8501/mcp", "https://192.168.1.2/mcp"} {
		d.problems = nil
		if _, ok := d.url(text, false, "url"); !ok {
			t.Errorf("%q: %v", text, d.problems)
		}
	}
}

// TestStageWall: whatever two stages of two upstreams are given, if they share an
// endpoint, a command or a credential there is a problem, and otherwise none.
func TestStageWall(t *testing.T) {
	type use struct{ url, credential, command, env string }
	uses := rapid.Custom(func(t *rapid.T) use {
		if rapid.Bool().Draw(t, "command?") {
			return use{command: rapid.SampledFrom([]string{"one", "two"}).Draw(t, "command"), env: rapid.SampledFrom([]string{"", "env:SALLYPORT_A", "file:secrets/a"}).Draw(t, "env")}
		}
		return use{url: rapid.SampledFrom([]string{"https://a.example.com/mcp", "https://b.example.com/mcp"}).Draw(t, "url"), credential: rapid.SampledFrom([]string{"", "env:SALLYPORT_A", "env:SALLYPORT_B"}).Draw(t, "credential")}
	})
	base := template(t, "minimal")
	rapid.Check(t, func(t *rapid.T) {
		files := map[string]string{}
		for path, text := range base {
			files[path] = text
		}
		holders := map[string]map[sallyport.Stage]bool{}
		hold := func(what string, stage sallyport.Stage) {
			if holders[what] == nil {
				holders[what] = map[sallyport.Stage]bool{}
			}
			holders[what][stage] = true
		}
		for _, name := range []string{"x", "y"} {
			text := "upstream: " + name + "\npins: weather.pins.json\nstages:\n"
			for _, stage := range []sallyport.Stage{sallyport.Staging, sallyport.Production} {
				u := uses.Draw(t, "use")
				text += "  " + stage.String() + ":\n    binding: off\n"
				if u.command != "" {
					text += "    command: [" + u.command + "]\n"
					hold("command "+u.command+" "+u.env, stage)
					if u.env != "" {
						text += "    env: {A: \"" + u.env + "\"}\n"
						hold(u.env, stage)
					}
					continue
				}
				text += "    url: " + u.url + "\n"
				hold(u.url, stage)
				if u.credential != "" {
					text += "    credential: " + u.credential + "\n"
					hold(u.credential, stage)
				}
			}
			files["upstreams/"+name+".yaml"] = text
		}
		shared := false
		for _, stages := range holders {
			shared = shared || len(stages) > 1
		}
		_, problems := Load(project(files))
		if (len(problems) > 0) != shared {
			t.Fatalf("shared: %v, problems: %v\n%s%s", shared, problems, files["upstreams/x.yaml"], files["upstreams/y.yaml"])
		}
		for _, p := range problems {
			if !strings.Contains(p.Message, "exactly one stage") {
				t.Fatal(p)
			}
		}
	})
}

func TestSecretArguments(t *testing.T) {
	tests := []struct {
		command []string
		secret  int // the argument that is, -1 for none
	}{
		{[]string{"npx", "-y", "@modelcontextprotocol/server-filesystem", "."}, -1},
		{[]string{"server", "--token", "abc"}, 2},
		{[]string{"server", "--token=abc"}, 1},
		{[]string{"server", "-api-key", "abc"}, 2},
		{[]string{"server", "--token-file", "token"}, -1},
		{[]string{"server", "--token-file=token"}, -1},
		{[]string{"server", "--token", "--verbose"}, -1},
		{[]string{"server", "--no-password"}, -1},
		{[]string{"server", "--header", "Authorization: abc"}, 2},
		{[]string{"server", "ghp_abcdefghijkl"}, 1},
		{[]string{"token", "abc"}, -1},
	}
	for _, tt := range tests {
		got := -1
		for i := range tt.command {
			if secretArg(tt.command, i) {
				got = i
			}
		}
		if got != tt.secret {
			t.Errorf("%v: argument %d, want %d", tt.command, got, tt.secret)
		}
	}
}
