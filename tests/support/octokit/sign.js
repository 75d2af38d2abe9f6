// Reads one JSON document {"secret": ..., "bodies": [...]} and writes the signatures of the bodies, in order.
import { sign, verify } from "@octokit/webhooks-methods";

let input = "";
for await (const chunk of process.stdin) input += chunk;
const { secret, bodies } = JSON.parse(input);
const signatures = [];
for (const body of bodies) {
  const signature = await sign(secret, body);
  if (!(await verify(secret, body, signature))) throw new Error("the signature does not verify");
  signatures.push(signature);
}
process.stdout.write(JSON.stringify(signatures));
