// Linear's own webhook receiver as the upstream of a test, unmodified.
//
//     node linear_upstream.mjs FOLDER SECRET
//
// FOLDER is where npm installed it. It listens on a free port and tells, one
// JSON object a line, what it was sent (`arrived`), what its listeners handled
// (`handled`) and what it answered (`answered`). It answers what it is asked on
// standard input, which is nothing, with the same `id`, and ends with it.

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, secret] = process.argv.slice(2);
const { resolve } = createRequire(`${folder}/`);
const { LinearWebhookClient } = await import(pathToFileURL(resolve("@linear/sdk/webhooks")));

const say = (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`);

const receive = new LinearWebhookClient(secret).createHandler();
receive.on("*", (payload) => {
  const { type, action, organizationId } = payload;
  say({ handled: type, action, organization: organizationId, signal: payload.agentActivity?.signal ?? null });
});

const server = createServer((request, response) => {
  const digest = createHash("sha256");
  let length = 0;
  request.on("data", (chunk) => {
    digest.update(chunk);
    length += chunk.length;
  });
  request.on("end", () => {
    const headers = [];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      headers.push(request.rawHeaders.slice(at, at + 2));
    }
    say({ arrived: request.url, headers, length, sha256: digest.digest("hex") });
  });
  response.on("finish", () => say({ answered: response.statusCode }));
  receive(request, response);
});
server.listen(0, "127.0.0.1", () => say({ listening: server.address().port }));

createInterface({ input: process.stdin })
  .on("line", (line) => say({ id: JSON.parse(line).id, answer: null }))
  .on("close", () => process.exit(0));
