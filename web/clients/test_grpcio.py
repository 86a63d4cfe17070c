"""grpcio with stubs made from the protos, against a running gateway."""

import json
import queue
import unittest

import grpc
from shoal.v1 import generate_pb2 as pb
from shoal.v1 import generate_pb2_grpc, sampling_pb2

import target


def generation(prompt="Hello!", **sampling):
    return pb.Generation(prompt=prompt, sampling=sampling_pb2.Sampling(**sampling))


ENDLESS = {"max_tokens": target.LONG, "ignore_eos": True, "temperature": 1}


class GRPC(unittest.TestCase):
    def setUp(self):
        channel = grpc.insecure_channel(target.GRPC)
        self.addCleanup(channel.close)
        self.service = generate_pb2_grpc.GenerateServiceStub(channel)

    def test_generate(self):
        request = pb.GenerateRequest(generation=generation(max_tokens=10, logprobs=True, top_logprobs=2))
        events = [r.event for r in self.service.Generate(request)]
        kinds = [e.WhichOneof("event") for e in events]
        self.assertEqual(kinds[0], "accepted")
        self.assertEqual(kinds[-1], "complete")
        tokens = [e.token for e in events if e.WhichOneof("event") == "token"]
        self.assertEqual([t.seq for t in tokens], list(range(1, len(tokens) + 1)))
        self.assertEqual(len(tokens[0].logprob.top), 2)
        self.assertEqual(events[-1].complete.usage.completion_tokens, len(tokens))

    def test_abort(self):
        before = target.cluster()["totals"]["generatedTokens"]
        call = self.service.Generate(pb.GenerateRequest(generation=generation(**ENDLESS)))
        for reply in call:
            if reply.event.HasField("token"):
                call.cancel()
                break
        target.await_idle(self, before, target.LONG // 2)

    def test_chat_stops_and_goes_on(self):
        before = target.cluster()["totals"]["generatedTokens"]
        asks = queue.Queue()
        replies = self.service.Chat(iter(asks.get, None))
        asks.put(pb.ChatRequest(generation=generation(**ENDLESS)))
        stopped = None
        for reply in replies:
            if reply.event.HasField("token") and stopped is None:
                stopped = False
                asks.put(pb.ChatRequest(stop=pb.StopAnswer()))
            if reply.event.HasField("stopped"):
                stopped = reply.event.stopped
                break
            if reply.event.HasField("complete"):  # it was faster than the stop
                before, stopped = target.cluster()["totals"]["generatedTokens"], None
                asks.put(pb.ChatRequest(generation=generation(**ENDLESS)))
        self.assertEqual(stopped.reason, "client")
        target.await_idle(self, before, target.LONG // 2)
        asks.put(pb.ChatRequest(generation=generation(max_tokens=3)))
        asks.put(None)
        self.assertEqual([r.event.WhichOneof("event") for r in replies][-1], "complete")

    def test_deadline(self):
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in self.service.Generate(pb.GenerateRequest(generation=generation(**ENDLESS)), timeout=0.05):
                pass
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_embedding(self):
        request = pb.Generation(raw="Hello", pooling=sampling_pb2.POOLING_MEAN)
        last = list(self.service.Generate(pb.GenerateRequest(generation=request)))[-1]
        self.assertAlmostEqual(sum(x * x for x in last.event.complete.embedding), 1, places=5)

    def test_json_schema(self):
        request = generation(max_tokens=200)
        request.response_format.type, request.response_format.schema = "json_schema", json.dumps(target.WORDS)
        events = [r.event for r in self.service.Generate(pb.GenerateRequest(generation=request))]
        text = "".join(e.token.delta.content for e in events) + events[-1].complete.text
        self.assertEqual(events[-1].complete.finish_reason, "stop")
        self.assertEqual(list(json.loads(text)), ["city"])

    def test_tools(self):
        request = generation(max_tokens=200)
        request.tools.append(json.dumps(target.TOOL))
        request.tool_choice.mode = "required"
        events = [r.event for r in self.service.Chat(iter([pb.ChatRequest(generation=request)]))]
        calls = [e.token.delta.tool_call for e in events if e.token.delta.HasField("tool_call")] + list(events[-1].complete.tool_calls)
        self.assertEqual(events[-1].complete.finish_reason, "tool_calls")
        self.assertEqual(calls[0].name, "weather")
        self.assertIn("city", json.loads("".join(c.arguments for c in calls)))

    def test_models_tokenize_cluster(self):
        self.assertEqual([m.name for m in self.service.Models(pb.ModelsRequest()).models], [target.MODEL])
        raw = self.service.Tokenize(pb.TokenizeRequest(raw="Hello"))
        self.assertGreater(len(raw.ids), 0)
        turn = self.service.Tokenize(pb.TokenizeRequest(prompt="Hello"))
        self.assertGreater(len(turn.ids), len(raw.ids))
        watch = self.service.Cluster(pb.GenerateServiceClusterRequest())
        state = next(watch)
        watch.cancel()
        self.assertTrue(state.ready)
        self.assertTrue(state.nodes)

    def test_errors(self):
        for request, code in (
            (generation(temperature=-1), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.Generation(), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.Generation(prompt="x", response_format=pb.ResponseFormat(type="xml")), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with self.assertRaises(grpc.RpcError) as caught:
                list(self.service.Generate(pb.GenerateRequest(generation=request)))
            self.assertEqual(caught.exception.code(), code)
        events = list(self.service.Generate(pb.GenerateRequest(generation=pb.Generation(model="no-such-model", prompt="x"))))
        self.assertEqual(events[-1].event.error.code, "model_not_found")

    def test_key(self):
        with grpc.insecure_channel(target.KEY_GRPC) as channel:
            service = generate_pb2_grpc.GenerateServiceStub(channel)
            with self.assertRaises(grpc.RpcError) as caught:
                service.Models(pb.ModelsRequest())
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
            key = (("authorization", "Bearer " + target.KEY),)
            self.assertTrue(service.Models(pb.ModelsRequest(), metadata=key).models)


if __name__ == "__main__":
    unittest.main()
