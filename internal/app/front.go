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

// frontStyleHash is the SHA-256 of frontStyle in base 64, which TestFrontStyle checks.
const frontStyleHash = "CmHLXb8T3fbAtbkErz5yMW0kZN0QZ/Wjp5ULTnZpEJg="

const frontStyle = `:root{color-scheme:light dark;font:16px/1.6 system-ui,sans-serif}body{max-width:42rem;margin:3rem auto;padding:0 1.25rem}h1{font-size:1.6rem;margin-bottom:.25rem}code,pre{font-family:ui-monospace,monospace;font-size:.92em}pre{padding:.9rem 1rem;border:1px solid light-dark(#d5d9e0,#3a404b);border-radius:.5rem;overflow:auto}`

const frontPage = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>Sallyport</title><style>` + frontStyle + `</style></head><body><main>
<h1>Sallyport is running</h1>
<p>It stands between AI agents and the tools they act on. Agents connect to <code>/mcp</code>; people use the command line until the console comes.</p>
<h2>Sign in</h2>
<pre>sallyport login LINK     # the one-time link that <i>up</i> printed
sallyport status</pre>
<h2>Stop something</h2>
<pre>sallyport halt global --reason "why"
sallyport resume global --reason "why"</pre>
<h2>Prove what happened</h2>
<pre>sallyport audit export &gt; log.jsonl
sallyport audit verify log.jsonl</pre>
<p>Health: <a href="/healthz">/healthz</a> and <a href="/readyz">/readyz</a>.</p>
</main></body></html>
`
