// What the clients of the TypeScript SDKs have in common. It reads
//   {url, token, version, clients, steps: [{method, params, progress, cancel, await}]}
// from its input, or, for clients that start a program and speak to it over stdio,
// {bridge, env, keep} in the place of url and token: the program keeps its output in
// a file of the directory keep. It lets so many clients make the steps one after another, all
// clients at once, and writes
//   [{version, steps: [{result | error, progress}], asked, told, answers: [{step, status, body}]}]
// one for each client: what the SDK made of the answers, and the answers to POSTs
// as they came. The text «CLIENT» in params is the number of the client.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";

const verbs = {
  "ping": (c) => c.client.ping(),
  "tools/list": (c) => c.client.listTools(),
  "tools/call": (c, params, options) => c.callTool(params, options),
  "resources/list": (c) => c.client.listResources(),
  "resources/templates/list": (c) => c.client.listResourceTemplates(),
  "resources/read": (c, params, options) => c.client.readResource(params, options),
  "resources/subscribe": (c, params) => c.client.subscribeResource(params),
  "resources/unsubscribe": (c, params) => c.client.unsubscribeResource(params),
  "prompts/list": (c) => c.client.listPrompts(),
  "prompts/get": (c, params, options) => c.client.getPrompt(params, options),
  "completion/complete": (c, params) => c.client.complete(params),
  "logging/setLevel": (c, params) => c.client.setLoggingLevel(params.level),
  "subscriptions/listen": async (c, params) => {
    const subscription = await c.client.listen(params.notifications);
    await subscription.close();
    return { honoured: subscription.honoredFilter, ended: await subscription.closed };
  },
};

const patience = 30_000;

export async function run(connect) {
  const input = JSON.parse(await text(process.stdin));
  const outputs = await Promise.all(Array.from({ length: input.clients ?? 1 }, (_, i) => one(connect, input, i)));
  process.stdout.write(JSON.stringify(outputs), () => process.exit());
}

async function one(connect, input, number) {
  let step = -1;
  const answers = [], asked = [], told = [];
  const fetching = async (to, init) => {
    const response = await fetch(to, init);
    const sent = init?.method === "POST" ? JSON.parse(init.body) : {};
    if (sent.method && sent.id !== undefined && sent.method !== "subscriptions/listen") {
      const at = step;
      answers.push(response.clone().text().then((body) => ({ step: at, status: response.status, body }), () => undefined));
    }
    return response;
  };
  const asking = (answer) => async ({ method, params }) => {
    asked.push({ step, method, params });
    return answer;
  };
  const telling = ({ method, params }) => void told.push({ step, method, params });
  const keep = input.bridge && join(input.keep, String(number)), sent = new Map();
  const program = input.bridge && {
    command: input.bridge, args: [], stderr: "inherit",
    env: { ...process.env, ...input.env, SALLYPORT_TEST_BRIDGE_KEEP: keep },
  };
  const connection = await connect(input, {
    requests: {
      "elicitation/create": asking({ action: "accept", content: { name: "Ada" } }),
      "sampling/createMessage": asking({ model: "m", role: "assistant", content: { type: "text", text: "roses are red" } }),
    },
    notifications: {
      "notifications/message": telling,
      "notifications/resources/updated": telling,
      "notifications/tools/list_changed": telling,
    },
  }, fetching, program, (transport) => {
    const send = transport.send.bind(transport);
    transport.send = (message, options) => {
      if (message.method && message.id !== undefined && message.method !== "subscriptions/listen") sent.set(message.id, step);
      return send(message, options);
    };
    return transport;
  });
  const steps = [];
  for (const s of input.steps) {
    step++;
    const progress = [], controller = new AbortController();
    const options = { timeout: patience, signal: controller.signal };
    if (s.progress || s.cancel) {
      options.onprogress = (p) => {
        progress.push(p);
        if (s.cancel) controller.abort("not needed any more");
      };
    }
    const params = JSON.parse(JSON.stringify(s.params ?? {}).replaceAll("«CLIENT»", String(number)));
    try {
      steps.push({ result: await verbs[s.method](connection, params, options), progress });
    } catch (error) {
      steps.push({ error: { name: error.name, code: error.code, message: error.message, data: error.data }, progress });
    }
    const deadline = Date.now() + patience;
    while (s.await && !told.some((n) => n.method === s.await)) {
      if (Date.now() > deadline) throw new Error(`waited in vain for ${s.await}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  const bodies = (await Promise.all(answers)).filter((a) => a);
  await connection.transport.terminateSession?.();
  await connection.client.close();
  if (keep) {
    for (const body of (await readFile(keep, "utf8")).split("\n")) {
      const { id, method } = body ? JSON.parse(body) : {};
      if (!method && sent.has(id)) bodies.push({ step: sent.get(id), body });
    }
  }
  return { version: connection.version, steps, asked, told, answers: bodies };
}
