// The openai package for JavaScript against a running gateway.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import * as target from "./target.js";

const client = new OpenAI({ baseURL: target.URL + "/v1", apiKey: "unused", maxRetries: 0 });
const ask = { model: target.MODEL, messages: [{ role: "user", content: "Hello!" }] };

test("chat", async () => {
  const answer = await client.chat.completions.create({ ...ask, temperature: 0, max_tokens: 20 });
  assert.ok(answer.choices[0].message.content);
  assert.match(answer.choices[0].finish_reason, /^(stop|length)$/);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a stream is the whole", async () => {
  const greedy = { ...ask, temperature: 0, max_tokens: 20 };
  const whole = await client.chat.completions.create(greedy);
  let text = "", usage;
  for await (const chunk of await client.chat.completions.create({ ...greedy, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("abort", async () => {
  const before = await target.generated();
  const stream = await client.chat.completions.create({ ...ask, stream: true, max_tokens: target.LONG, logit_bias: target.ENDLESS });
  for await (const chunk of stream) if (chunk.choices[0]?.delta?.content) break;
  await target.awaitIdle(before, target.LONG / 2);
});

test("logprobs", async () => {
  const answer = await client.chat.completions.create({ ...ask, max_tokens: 3, logprobs: true, top_logprobs: 2 });
  for (const token of answer.choices[0].logprobs.content) {
    assert.equal(token.top_logprobs.length, 2);
    assert.equal(new TextDecoder().decode(Uint8Array.from(token.bytes)), token.token);
  }
});

test("completions", async () => {
  const done = await client.completions.create({ model: target.MODEL, prompt: "The sea", max_tokens: 5, temperature: 0, echo: true });
  assert.ok(done.choices[0].text.startsWith("The sea"));
});

test("embeddings", async () => {
  const { data } = await client.embeddings.create({ model: target.MODEL, input: ["Hello", "A fish"] });
  assert.equal(data.length, 2);
  const length = data[0].embedding.reduce((sum, x) => sum + x * x, 0);
  assert.ok(Math.abs(length - 1) < 1e-5, `length ${length}`);
});

test("models", async () => {
  const names = (await client.models.list()).data.map((m) => m.id);
  assert.deepEqual(names, [target.MODEL]);
});

test("errors", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: "no-such-model" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
  await assert.rejects(client.chat.completions.create({ ...ask, temperature: -1 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
  const stranger = new OpenAI({ baseURL: target.KEY_URL + "/v1", apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  const friend = new OpenAI({ baseURL: target.KEY_URL + "/v1", apiKey: target.KEY });
  assert.ok((await friend.chat.completions.create({ ...ask, max_tokens: 2 })).choices);
});

test("tools", async () => {
  const answer = await client.chat.completions.create({ ...ask, tools: [target.TOOL], tool_choice: "required", max_tokens: 200 });
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.ok("city" in JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments));
});

test("a JSON schema", async () => {
  const form = { type: "json_schema", json_schema: { name: "place", schema: target.WORDS, strict: true } };
  const answer = await client.chat.completions.create({ ...ask, response_format: form, max_tokens: 200 });
  assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)), ["city"]);
});
