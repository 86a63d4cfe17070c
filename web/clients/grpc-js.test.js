// @grpc/grpc-js with the protos as they are, against a running gateway.
import assert from "node:assert/strict";
import { test, after } from "node:test";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import * as target from "./target.js";

const protos = loader.loadSync("shoal/v1/generate.proto", { includeDirs: [process.env.SHOAL_PROTO], oneofs: true, defaults: true, longs: Number });
const { GenerateService } = grpc.loadPackageDefinition(protos).shoal.v1;
const client = new GenerateService(target.GRPC, grpc.credentials.createInsecure());
after(() => client.close());

const generation = (sampling) => ({ generation: { prompt: "Hello!", sampling } });
const endless = { max_tokens: target.LONG, ignore_eos: true, temperature: 1 };

// The events of a call, as a promise of all of them or of its error.
const all = (call) =>
  new Promise((resolve, reject) => {
    const events = [];
    call.on("data", (m) => events.push(m.event)).on("end", () => resolve(events)).on("error", reject);
  });

const unary = (method, ...args) => new Promise((resolve, reject) => client[method](...args, (e, reply) => (e ? reject(e) : resolve(reply))));

test("generate", async () => {
  const events = await all(client.Generate(generation({ max_tokens: 10 })));
  assert.equal(events[0].event, "accepted");
  assert.equal(events.at(-1).event, "complete");
  const tokens = events.filter((e) => e.event === "token").map((e) => e.token.seq);
  assert.deepEqual(tokens, tokens.map((_, i) => i + 1));
});

test("abort", async () => {
  const before = await target.generated();
  const call = client.Generate(generation(endless));
  call.on("data", (m) => m.event.event === "token" && call.cancel());
  await assert.rejects(all(call), (e) => e.code === grpc.status.CANCELLED);
  await target.awaitIdle(before, target.LONG / 2);
});

test("chat stops", async () => {
  const call = client.Chat();
  call.write(generation(endless));
  let asked = false;
  call.on("data", (m) => {
    if (m.event.event === "token" && !asked) {
      asked = true;
      call.write({ stop: {} });
    }
    if (m.event.event === "stopped") call.end();
    if (m.event.event === "complete") {
      asked = false; // it was faster than the stop
      call.write(generation(endless));
    }
  });
  const events = await all(call);
  assert.equal(events.at(-1).stopped.reason, "client");
});

test("models and tokenize", async () => {
  assert.equal((await unary("Models", {})).models[0].name, target.MODEL);
  assert.ok((await unary("Tokenize", { raw: "Hello" })).ids.length > 0);
});

test("errors", async () => {
  await assert.rejects(all(client.Generate(generation({ temperature: -1 }))), (e) => e.code === grpc.status.INVALID_ARGUMENT);
  const keyed = new GenerateService(target.KEY_GRPC, grpc.credentials.createInsecure());
  const ask = (metadata) => new Promise((resolve, reject) => keyed.Models({}, metadata, (e, reply) => (e ? reject(e) : resolve(reply))));
  await assert.rejects(ask(new grpc.Metadata()), (e) => e.code === grpc.status.UNAUTHENTICATED);
  const metadata = new grpc.Metadata();
  metadata.set("authorization", "Bearer " + target.KEY);
  assert.ok((await ask(metadata)).models.length > 0);
  keyed.close();
});
