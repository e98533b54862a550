// Serves a stdio server over streamable HTTP, a process for each session: the two
// transports of the official TypeScript SDK, 1.x, tied together. Messages pass as
// they are; nothing in between knows what they mean.
//   node --import ./loopback.mjs bridge.mjs PROGRAM ARGUMENT...
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";

const [command, ...args] = process.argv.slice(2);
const sessions = new Map();

async function open() {
  const inside = new StdioClientTransport({ command, args, env: {} });
  const outside = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, outside),
  });
  outside.onmessage = (message) => inside.send(message);
  inside.onmessage = (message) => outside.send(message);
  outside.onclose = () => {
    sessions.delete(outside.sessionId);
    inside.close();
  };
  inside.onclose = () => outside.close();
  await inside.start();
  await outside.start();
  return outside;
}

createServer(async (request, response) => {
  const id = request.headers["mcp-session-id"];
  if (id && !sessions.has(id)) return response.writeHead(404).end();
  await (sessions.get(id) ?? (await open())).handleRequest(request, response);
}).listen();
