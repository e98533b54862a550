// A client of the official TypeScript SDK, 1.x. See run.mjs.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import * as types from "@modelcontextprotocol/sdk/types.js";
import { run } from "./run.mjs";

const schemas = {
  "elicitation/create": types.ElicitRequestSchema,
  "sampling/createMessage": types.CreateMessageRequestSchema,
  "notifications/message": types.LoggingMessageNotificationSchema,
  "notifications/resources/updated": types.ResourceUpdatedNotificationSchema,
  "notifications/tools/list_changed": types.ToolListChangedNotificationSchema,
};

await run(async ({ url, token, version }, handlers, fetch, program, tap) => {
  const client = new Client({ name: "counterpart", version: "1" }, { capabilities: { elicitation: {}, sampling: {} } });
  for (const [method, handler] of Object.entries(handlers.requests)) client.setRequestHandler(schemas[method], handler);
  for (const [method, handler] of Object.entries(handlers.notifications)) client.setNotificationHandler(schemas[method], handler);
  const transport = program ? tap(new StdioClientTransport(program)) : new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } }, fetch,
  });
  await client.connect(transport);
  return {
    version: program ? version : transport.protocolVersion, // this SDK says it to HTTP alone
    callTool: (params, options) => client.callTool(params, undefined, options),
    client, transport,
  };
});
