// A server of the official TypeScript SDK, 2.x, that speaks 2026-07-28 and nothing
// else: over stdio, or, with the argument http, over HTTP.
import { createServer } from "node:http";
import { createMcpHandler, inputRequired, ProtocolError, Server } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";
import { toNodeHandler } from "@modelcontextprotocol/node";

const text = (t) => ({ content: [{ type: "text", text: t }] });
const schema = (properties, required = []) => ({ type: "object", properties, required });
const string = { type: "string" };

// The calls of wait by their notes: noticed resolves when one is cancelled.
const cancellations = new Map();
const cancellation = (note) => {
  if (!cancellations.has(note)) cancellations.set(note, Promise.withResolvers());
  return cancellations.get(note);
};
const noticed = (note) => cancellation(note).promise;

const tools = {
  say: {
    description: "says <it> & again é \u2028",
    inputSchema: schema({ text: string, region: { type: "string", "x-mcp-header": "Region" } }, ["text"]),
    outputSchema: schema({ text: string, region: string }, ["text"]),
    annotations: { readOnlyHint: true },
    _meta: { "example.com/owner": "somebody", "example.com/weight": 0.1 },
    call: async (args) => ({ ...text(args.text), structuredContent: args }),
  },
  steps: {
    inputSchema: schema({ count: { type: "integer" } }, ["count"]),
    call: async ({ count }, ctx) => {
      const progressToken = ctx.mcpReq._meta?.progressToken;
      for (let progress = 1; progress <= count; progress++) {
        if (progressToken !== undefined) {
          await ctx.mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: count, message: `step ${progress}` } });
        }
        await ctx.mcpReq.log("info", `at step ${progress}`);
      }
      return text(`${count} steps`);
    },
  },
  wait: {
    inputSchema: schema({ note: string }, ["note"]),
    call: async ({ note }, ctx) => {
      const ended = new Promise((resolve) => ctx.mcpReq.signal.addEventListener("abort", resolve));
      const progressToken = ctx.mcpReq._meta?.progressToken;
      await ctx.mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress: 1 } });
      await ended;
      cancellation(note).resolve();
      return text("cancelled");
    },
  },
  cancelled: {
    inputSchema: schema({ note: string }, ["note"]),
    call: async ({ note }) => {
      await noticed(note);
      return text(`${note} was cancelled`);
    },
  },
  ask: {
    inputSchema: schema({}),
    call: async (_, ctx) => {
      const answer = ctx.mcpReq.inputResponses?.name;
      if (!answer) {
        return inputRequired({
          inputRequests: { name: inputRequired.elicit({ message: "What is your name?", requestedSchema: schema({ name: string }, ["name"]) }) },
          requestState: "half way / ü",
        });
      }
      return text(`${JSON.stringify(answer)} after ${ctx.mcpReq.requestState()}`);
    },
  },
  sample: {
    inputSchema: schema({}),
    call: async (_, ctx) => {
      const answer = ctx.mcpReq.inputResponses?.poem;
      if (!answer) {
        const messages = [{ role: "user", content: { type: "text", text: "Write a poem." } }];
        return inputRequired({ inputRequests: { poem: inputRequired.createMessage({ messages, maxTokens: 10 }) } });
      }
      return text(JSON.stringify(answer));
    },
  },
  odd: {
    inputSchema: schema({}),
    call: async () => ({
      content: [
        { type: "text", text: "\u0000\u001f\u007f\ud83d\ude00 \u2028\u2029", extra: { deep: [null, [], {}] } },
        { type: "resource_link", uri: "memo:///one", name: "", more: [1e21, 1.5e-9] },
      ],
      structuredContent: { large: JSON.rawJSON("12345678901234567890"), exact: JSON.rawJSON("1.0"), tiny: JSON.rawJSON("1E-400") },
      unknownMember: { "": "" },
      _meta: { "example.com/trace": JSON.rawJSON("-9007199254740993") },
    }),
  },
  fail: {
    inputSchema: schema({}),
    call: async () => {
      throw new ProtocolError(-32099, "it is <broken> é", { why: JSON.rawJSON("98765432109876543210"), list: [1, "two", null], nested: { a: { b: [] } } });
    },
  },
  pid: { inputSchema: schema({}), call: async () => text(String(process.pid)) },
};

const prompts = [
  { name: "greet", description: "greets somebody", arguments: [{ name: "who", required: true }] },
  { name: "strange", "x-unknown": [{}] },
];
const resources = [
  { uri: "memo:///one", name: "one", mimeType: "text/plain", size: 9, annotations: { priority: 0.5 } },
  { uri: "memo:///bytes", name: "bytes", mimeType: "application/octet-stream" },
];
const resourceTemplates = [{ uriTemplate: "memo:///by-name/{name}", name: "by name" }];

const make = () => {
  const server = new Server({ name: "modern", version: "1" }, {
    capabilities: { tools: {}, resources: {}, prompts: {}, completions: {}, logging: {} },
    instructions: "be kind",
  });
  server.setRequestHandler("tools/list", async () => ({
    tools: Object.entries(tools).map(([name, { call, ...definition }]) => ({ name, ...definition })),
  }));
  server.setRequestHandler("tools/call", async ({ params }, ctx) => tools[params.name].call(params.arguments ?? {}, ctx));
  server.setRequestHandler("resources/list", async () => ({ resources }));
  server.setRequestHandler("resources/templates/list", async () => ({ resourceTemplates }));
  server.setRequestHandler("resources/read", async ({ params: { uri } }) => {
    if (uri === "memo:///bytes") return { contents: [{ uri, mimeType: "application/octet-stream", blob: "AAH/" }] };
    if (uri.includes("missing")) throw new ProtocolError(-32602, "there is no such memo", { uri });
    return { contents: [{ uri, mimeType: "text/plain", text: `this is ${uri}`, unknown: [1] }] };
  });
  server.setRequestHandler("prompts/list", async () => ({ prompts }));
  server.setRequestHandler("prompts/get", async ({ params }) => ({
    messages: [{
      role: "user",
      content: params.name === "strange"
        ? { type: "hologram", frames: [JSON.rawJSON("12345678901234567890"), JSON.rawJSON("1.0")] }
        : { type: "text", text: `Greet ${params.arguments?.who}.` },
    }],
  }));
  server.setRequestHandler("completion/complete", async ({ params }) => ({
    completion: { values: ["Ada", "Alan", "Grace"].filter((n) => n.startsWith(params.argument.value)), total: 3, hasMore: false },
  }));
  return server;
};

const onerror = (error) => console.error("modern:", error);
if (process.argv[2] === "http") {
  const handler = toNodeHandler(createMcpHandler(make, { legacy: "reject", onerror }), { onerror });
  createServer(handler).listen(); // see loopback.mjs
} else {
  serveStdio(make, { legacy: "reject", onerror });
}
