// A client of the official TypeScript SDK, 2.x. See run.mjs.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { run } from "./run.mjs";

await run(async ({ url, token, version }, handlers, fetch, program, tap) => {
  const modern = version === "2026-07-28";
  const client = new Client({ name: "counterpart", version: "1" }, {
    capabilities: { elicitation: {}, sampling: {} },
    versionNegotiation: { mode: modern ? { pin: version } : "legacy" },
  });
  for (const [method, handler] of Object.entries(handlers.requests)) client.setRequestHandler(method, handler);
  for (const [method, handler] of Object.entries(handlers.notifications)) client.setNotificationHandler(method, handler);
  const transport = program ? tap(new StdioClientTransport(program)) : new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } }, fetch,
  });
  await client.connect(transport);
  return {
    version: client.getNegotiatedProtocolVersion(),
    callTool: (params, options) => client.callTool(params, options),
    client, transport,
  };
});
