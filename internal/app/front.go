package app

import (
	"io"
	"net/http"
)

// front is the page at / until there is a console.
func front(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+frontStyleHash+"'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, frontPage)
}

// elsewhere answers where nothing is. Who comes there is mostly a client that was
// given the address without its path, and shows this text to a person.
func elsewhere(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "there is nothing at this address: agents connect to /mcp with a key (sallyport connect), and the API is under /v1", http.StatusNotFound)
}

// frontStyleHash is the SHA-256 of frontStyle in base 64, which TestFrontStyle checks.
const frontStyleHash = "CCifhJAo0H25gCD+d/O5DNEHeEimc37mKtaM4+i8hAU="

const frontStyle = `:root{color-scheme:light dark;font:16px/1.6 system-ui,sans-serif;--line:light-dark(#d5d9e0,#3a404b);--soft:light-dark(#f5f6f8,#1c2026);--quiet:light-dark(#565d69,#a3abb8);background:light-dark(#fff,#13161b);color:light-dark(#16181d,#e8eaee)}body{max-width:46rem;margin:3.5rem auto 4rem;padding:0 1.25rem}h1{font-size:1.75rem;line-height:1.25;margin:0 0 .25rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}p{margin:.25rem 0 .75rem}.quiet{color:var(--quiet)}code,pre{font-family:ui-monospace,monospace;font-size:.875rem}pre{margin:0;padding:.8rem 1rem;border:1px solid var(--line);border-radius:.5rem;background:var(--soft);overflow:auto}a{color:light-dark(#0b57d0,#8ab4f8)}a:focus-visible,pre:focus-visible{outline:2px solid light-dark(#0b57d0,#8ab4f8);outline-offset:2px}footer{margin-top:2.5rem;padding-top:1rem;border-top:1px solid var(--line)}`

const frontPage = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>Sallyport</title><style>` + frontStyle + `</style></head><body><main>
<h1>Sallyport is running</h1>
<p class="quiet">It stands between AI agents and the tools they act on. Agents connect to <code>/mcp</code> with a key or a run token; people use the command line.</p>
<h2>Sign in</h2>
<pre tabindex="0">sallyport login LINK      # the one-time link that &ldquo;up&rdquo; printed
sallyport status          # agents, stages, halts, calls nobody knows the end of</pre>
<h2>Let an agent in</h2>
<pre tabindex="0">sallyport diff            # what the project directory would change
sallyport apply
sallyport promote AGENT --to sandbox --reason "first try"
sallyport keys agent AGENT --stage sandbox</pre>
<h2>See what it did</h2>
<pre tabindex="0">sallyport calls list
sallyport policy explain CALL
sallyport audit trace CALL</pre>
<h2>Stop it, and let it go on</h2>
<pre tabindex="0">sallyport halt agent AGENT --reason "why"
sallyport resume agent AGENT --reason "why"</pre>
<h2>Prove it</h2>
<pre tabindex="0">sallyport audit export &gt; log.jsonl
sallyport audit verify log.jsonl</pre>
<footer class="quiet">The <a href="/v1/openapi.json">API</a>, <a href="/healthz">health</a> and <a href="/readyz">readiness</a>. Something is wrong? <code>sallyport doctor</code> says what, and what to do.</footer>
</main></body></html>
`
