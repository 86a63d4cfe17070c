// What the JavaScript client tests share; run.sh sets the variables.
import assert from "node:assert/strict";

export const URL = process.env.SHOAL_URL;
export const GRPC = process.env.SHOAL_GRPC;
export const KEY_URL = process.env.SHOAL_KEY_URL;
export const KEY_GRPC = process.env.SHOAL_KEY_GRPC;
export const KEY = process.env.SHOAL_KEY;
export const MODEL = "tiny";

// An answer with this bias never ends by itself: the id ends the model's turns.
export const ENDLESS = { 2: -100 };
export const LONG = 900;

export const WORDS = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
export const TOOL = { type: "function", function: { name: "weather", description: "The weather in a city.", parameters: WORDS } };

export async function cluster() {
  const reply = await fetch(URL + "/v1/cluster");
  assert.equal(reply.status, 200);
  return reply.json();
}

export async function generated() {
  return (await cluster()).totals.generatedTokens;
}

// Waits until no answer runs, and checks that few tokens were made since before.
export async function awaitIdle(before, most) {
  const deadline = Date.now() + 10_000;
  while ((await cluster()).sessions.running > 0) {
    assert.ok(Date.now() < deadline, "an answer still runs");
    await new Promise((done) => setTimeout(done, 20));
  }
  const made = (await generated()) - before;
  assert.ok(made < most, `the answer ran on after its client had left: ${made} tokens`);
}
