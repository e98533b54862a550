"""A client of the Model Context Protocol that knows nothing but the specification.

There is no SDK of Python here: it is in no registry that these tests may rely on.
So this is no counterpart that others wrote, but a second reading of the documents,
in another language, with nothing but Python's standard library: revisions 2025-11-25
and 2025-06-18 with a session, 2026-07-28 without. It is strict: what the specification
does not allow a server to send ends it.

It reads and writes what ../counterpart/run.mjs does, for one client.
"""

import base64
import http.client
import json
import sys
import urllib.parse

STATELESS = "2026-07-28"
META = "io.modelcontextprotocol/"
SELF = {"name": "counterpart", "version": "1"}
CAPABILITIES = {"elicitation": {}, "sampling": {}}
ANSWERS = {
    "elicitation/create": {"action": "accept", "content": {"name": "Ada"}},
    "sampling/createMessage": {"model": "m", "role": "assistant", "content": {"type": "text", "text": "roses are red"}},
}


class Refused(Exception):
    """An error of the protocol, or what HTTP says instead of one."""


class Cancelled(Exception):
    pass


def demand(holds, *what):
    if not holds:
        raise AssertionError(" ".join(map(str, what)))


class Client:
    def __init__(self, url, token, version):
        self.at, self.token, self.version = urllib.parse.urlsplit(url), token, version
        self.stateless = version == STATELESS
        self.session, self.last, self.step, self.mirrored = None, 0, -1, {}
        self.asked, self.told, self.answers, self.progress = [], [], [], []

    def open(self):
        if self.stateless:
            found = self.request("server/discover", {})
            demand(self.version in found["supportedVersions"], found)
            return
        found = self.request("initialize", {"protocolVersion": self.version, "capabilities": CAPABILITIES, "clientInfo": SELF})
        demand(found["protocolVersion"] == self.version and found["serverInfo"]["name"], found)
        self.notify("notifications/initialized")

    def close(self):
        if self.session:
            connection, response = self.http("DELETE", None, {})
            demand(response.status in (200, 204), "ending the session:", response.status)
            connection.close()

    def http(self, method, message, headers):
        """Sends one HTTP request, and returns its connection and response."""
        headers = {"Accept": "application/json, text/event-stream", "Authorization": "Bearer " + self.token, **headers}
        if message is not None:
            headers["Content-Type"] = "application/json"
        if self.session:
            headers["Mcp-Session-Id"] = self.session
        if self.stateless or self.session:
            headers["MCP-Protocol-Version"] = self.version
        connection = http.client.HTTPConnection(self.at.hostname, self.at.port, timeout=30)
        connection.request(method, self.at.path, message and json.dumps(message, ensure_ascii=False).encode(), headers)
        response = connection.getresponse()
        if response.status == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            demand(challenge.startswith("Bearer "), "a 401 without a challenge:", challenge)
            raise Refused(f"HTTP 401: {response.read().decode()}")
        return connection, response

    def notify(self, method, params=None):
        self.accepted({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})

    def accepted(self, message):
        """Sends what is answered by nothing: a notification, or a response."""
        connection, response = self.http("POST", message, {})
        body = response.read()
        demand(response.status == 202 and not body, "instead of 202 without a body:", response.status, body)
        connection.close()

    def headers(self, method, params):
        """The headers that mirror the body in the stateless era."""
        if not self.stateless:
            return {}
        headers = {"Mcp-Method": method}
        if method in ("tools/call", "prompts/get", "resources/read"):
            headers["Mcp-Name"] = header(params["uri" if method == "resources/read" else "name"])
        if method == "tools/call":
            for argument, name in self.mirrored.get(params["name"], {}).items():
                if argument in params.get("arguments", {}):
                    headers["Mcp-Param-" + name] = header(params["arguments"][argument])
        return headers

    def request(self, method, params, cancel=False):
        """Makes a request until its result is complete, and returns that."""
        while True:
            result = self.once(method, params, cancel)
            if not self.stateless:
                demand("resultType" not in result, "a result with", result.get("resultType"))
                return result
            if result["resultType"] == "complete":
                return result
            demand(result["resultType"] == "input_required", result)
            asked = result.get("inputRequests", {})
            params = {**params, "inputResponses": {k: self.asks(q) for k, q in asked.items()}}
            params.pop("requestState", None)
            if "requestState" in result:
                params["requestState"] = result["requestState"]

    def asks(self, question):
        self.asked.append({"step": self.step, "method": question["method"], "params": question.get("params")})
        return ANSWERS[question["method"]]

    def once(self, method, params, cancel):
        self.last += 1
        params = dict(params)
        if self.stateless:
            params["_meta"] = {**params.get("_meta", {}), META + "protocolVersion": self.version, META + "clientInfo": SELF, META + "clientCapabilities": CAPABILITIES}
        message = {"jsonrpc": "2.0", "id": self.last, "method": method, **({"params": params} if params else {})}
        connection, response = self.http("POST", message, self.headers(method, params))
        body = bytearray()
        try:
            session = response.headers.get("Mcp-Session-Id")
            demand(not session or method == "initialize" and session.isascii() and session.isprintable(), "a session where there is none:", session)
            self.session = self.session or session
            for one in messages(response, body):
                demand(one["jsonrpc"] == "2.0", one)
                if "method" in one:
                    self.meanwhile(one, params.get("_meta", {}).get("progressToken"))
                    if cancel:
                        self.cancel(message["id"])
                    continue
                demand(one.get("id") == message["id"] and ("result" in one) != ("error" in one), "a response to something else:", one)
                demand(not response.read(1), "more after the response")
                if "error" in one:
                    demand(isinstance(one["error"]["code"], int), one)
                    raise Refused(one["error"]["message"])
                demand(response.status == 200, "a result with", response.status)
                return one["result"]
            raise AssertionError(f"no response to {method}")
        finally:
            connection.close()
            self.answers.append({"step": self.step, "body": body.decode()})

    def cancel(self, number):
        """Without sessions the end of the connection cancels, and nothing else."""
        if not self.stateless:
            self.notify("notifications/cancelled", {"requestId": number, "reason": "not needed any more"})
        raise Cancelled()

    def meanwhile(self, message, token):
        """Takes what a server sends before its response."""
        method, params = message["method"], message.get("params", {})
        if "id" in message:
            demand(not self.stateless, "a request of the server:", message)
            self.accepted({"jsonrpc": "2.0", "id": message["id"], "result": self.asks(message)})
        elif method == "notifications/progress":
            demand(token is not None and params["progressToken"] == token, "progress of another request:", message)
            demand(not self.progress or params["progress"] > self.progress[-1]["progress"], "no progress:", message)
            self.progress.append(params)
        else:
            self.told.append({"step": self.step, "method": method, "params": params})

    def make(self, step):
        """Makes one step, and says what became of it."""
        self.step, self.progress = self.step + 1, []
        method, params = step["method"], step.get("params", {})
        if step.get("progress"):
            params = {**params, "_meta": {"progressToken": f"step {self.step}"}}
        try:
            result = self.request(method, params, step.get("cancel", False))
        except (Refused, Cancelled) as error:
            return {"error": {"name": type(error).__name__, "message": str(error)}, "progress": self.progress}
        for tool in result.get("tools", []) if method == "tools/list" else []:
            properties = tool["inputSchema"].get("properties", {})
            self.mirrored[tool["name"]] = {k: v["x-mcp-header"] for k, v in properties.items() if "x-mcp-header" in v}
        return {"result": result, "progress": self.progress}


def messages(response, body):
    """Yields the messages of a response, and keeps in body what was read of it."""
    kind = response.headers.get_content_type()
    if kind == "application/json":
        body += response.read()
        yield json.loads(body)
    elif kind == "text/event-stream":
        demand(response.status == 200, "a stream with", response.status)
        data = []
        while line := response.readline():
            body += line
            field, _, value = line.decode().rstrip("\r\n").partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
            elif not field and not value and data:
                yield json.loads("\n".join(data))
                data = []
    else:
        raise Refused(f"HTTP {response.status}: {response.read().decode()}")


def header(value):
    """A value as it is in a header: as it is, or in Base64 if it would not survive."""
    text = value if isinstance(value, str) else json.dumps(value)
    if text.isascii() and text.isprintable() and text == text.strip() and not text.startswith("=?base64?"):
        return text
    return "=?base64?" + base64.b64encode(text.encode()).decode() + "?="


def main():
    given = json.load(sys.stdin)
    client = Client(given["url"], given["token"], given["version"])
    try:
        client.open()
        steps = [client.make(step) for step in given["steps"]]
        client.close()
    except Refused as refused:
        sys.exit(str(refused))
    json.dump([{"version": client.version, "steps": steps, "asked": client.asked, "told": client.told, "answers": client.answers}], sys.stdout)


main()
