// A client of the official TypeScript SDK, 1.x. It reads
// {url, token, calls: [{name, arguments}]} from its input and writes
// {version, tools, results, bodies}: what the SDK made of the answers, and the
// answers to tools/list and tools/call as they came.
import { text } from "node:stream/consumers";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { url, token, calls } = JSON.parse(await text(process.stdin));
const recorded = [];
const recording = async (to, init) => {
  const response = await fetch(to, init);
  const method = init?.method === "POST" ? JSON.parse(init.body).method : undefined;
  if (method === "tools/list" || method === "tools/call") {
    recorded.push(response.clone().text().then((body) => ({ method, body })));
  }
  return response;
};

const client = new Client({ name: "counterpart", version: "1" });
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${token}` } },
  fetch: recording,
});
await client.connect(transport);
const tools = [];
let cursor;
do {
  const page = await client.listTools(cursor ? { cursor } : {});
  tools.push(...page.tools.map((t) => t.name));
  cursor = page.nextCursor;
} while (cursor);
const results = [];
for (const call of calls) results.push(await client.callTool(call));
const bodies = await Promise.all(recorded);
const version = transport.protocolVersion;
await transport.terminateSession();
await client.close();
process.stdout.write(JSON.stringify({ version, tools, results, bodies }));
