// Loaded before a server of somebody else (node --import): whatever address the
// server means to listen on, it listens on the loopback interface, on the port
// LOOPBACK_PORT or a free one, says which on its output, and ends when whoever
// started it has gone.
import { Server } from "node:net";

const listen = Server.prototype.listen;
Server.prototype.listen = function (...args) {
  const listening = args.filter((a) => typeof a === "function");
  return listen.call(this, Number(process.env.LOOPBACK_PORT ?? 0), "127.0.0.1", () => {
    process.stdout.write(`listening on http://127.0.0.1:${this.address().port}/mcp\n`);
    for (const f of listening) f.call(this);
  });
};
process.stdin.resume().on("end", () => process.exit());
