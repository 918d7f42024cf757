// The TypeScript SDK's client, driven from outside: `node client.mjs FOLDER URL < OPERATIONS`.
//
// FOLDER has the SDK in its node_modules. OPERATIONS is a JSON array of [method, ...arguments] of the SDK's
// Client, done in order on one connection. Prints {protocolVersion, results, progress} as JSON, where an
// operation that threw gives {thrown: message}.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, url] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");

const client = new Client({ name: "oxenv-tests", version: "1" });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);

const results = [];
const progress = [];
for (const [method, params] of JSON.parse(readFileSync(0, "utf8"))) {
  const options = { onprogress: (step) => progress.push(step) };
  // Only callTool takes a schema before its options.
  const rest = method === "callTool" ? [undefined, options] : [];
  try {
    results.push(await client[method](params, ...rest));
  } catch (error) {
    results.push({ thrown: error.message });
  }
}
const protocolVersion = transport.protocolVersion;
await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ protocolVersion, results, progress }));
