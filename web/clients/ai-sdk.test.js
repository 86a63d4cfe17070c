// The AI SDK with its provider for OpenAI-compatible servers, against a running
// gateway.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import * as target from "./target.js";

const provider = (more) => createOpenAICompatible({ name: "shoal", baseURL: target.URL + "/v1", supportsStructuredOutputs: true, ...more });
const shoal = provider({});
const ask = { model: shoal(target.MODEL), prompt: "Hello!", temperature: 0, maxOutputTokens: 20, maxRetries: 0 };

test("generateText", async () => {
  const answer = await generateText(ask);
  assert.ok(answer.text);
  assert.match(answer.finishReason, /^(stop|length)$/);
  assert.ok(answer.usage.outputTokens > 0);
});

test("streamText is the whole", async () => {
  const whole = await generateText(ask);
  let text = "";
  for await (const part of streamText(ask).textStream) text += part;
  assert.equal(text, whole.text);
});

test("abort", async () => {
  const before = await target.generated();
  const controller = new AbortController();
  const story = { ...ask, prompt: "Write a very long story.", temperature: 2, maxOutputTokens: target.LONG, abortSignal: controller.signal };
  try {
    for await (const part of streamText(story).textStream) if (part) controller.abort();
  } catch (e) {
    assert.equal(e.name, "AbortError");
  }
  await target.awaitIdle(before, target.LONG / 2);
});

test("embedMany", async () => {
  const { embeddings } = await embedMany({ model: shoal.textEmbeddingModel(target.MODEL), values: ["Hello", "A fish"] });
  assert.equal(embeddings.length, 2);
  const length = embeddings[0].reduce((sum, x) => sum + x * x, 0);
  assert.ok(Math.abs(length - 1) < 1e-5, `length ${length}`);
});

test("errors", async () => {
  const status = (code) => (e) => APICallError.isInstance(e) && e.statusCode === code;
  await assert.rejects(generateText({ ...ask, model: shoal("no-such-model") }), status(404));
  await assert.rejects(generateText({ ...ask, temperature: -1 }), status(400));
  const stranger = provider({ baseURL: target.KEY_URL + "/v1", apiKey: "wrong" });
  await assert.rejects(generateText({ ...ask, model: stranger(target.MODEL) }), status(401));
  const friend = provider({ baseURL: target.KEY_URL + "/v1", apiKey: target.KEY });
  assert.ok((await generateText({ ...ask, model: friend(target.MODEL) })).text);
});

test("tools", async () => {
  const weather = tool({ description: "The weather in a city.", inputSchema: jsonSchema(target.WORDS) });
  const answer = await generateText({ ...ask, tools: { weather }, toolChoice: "required", maxOutputTokens: 200 });
  assert.equal(answer.toolCalls[0].toolName, "weather");
});

test("generateObject", async () => {
  const { object } = await generateObject({ ...ask, schema: jsonSchema(target.WORDS), maxOutputTokens: 200 });
  assert.deepEqual(Object.keys(object), ["city"]);
});
