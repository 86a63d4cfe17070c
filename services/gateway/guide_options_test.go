package gateway

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Every option of the streaming guide, on both protocols of /streaming: it
// reaches the coordinator, or is refused under its own name.

// TestGuideOptionsAct holds the options that have an effect.
func TestGuideOptionsAct(t *testing.T) {
	base := func(edit func(*pb.Generation)) *pb.Generation {
		g := &pb.Generation{
			Input: &pb.Generation_Prompt{Prompt: "x"}, MaxTokensClamp: true, Tenant: "local",
			Sampling: &pb.Sampling{MaxTokens: plainMaxTokens, Temperature: plainTemperature},
		}
		edit(g)
		return g
	}
	kv := func(k *pb.KvOptions) *pb.Generation { return base(func(g *pb.Generation) { g.Kv = k }) }
	steps := func(s *pb.Scheduling) *pb.Generation {
		return base(func(g *pb.Generation) { g.Scheduling = s })
	}
	class := func(name string) *pb.Generation { return base(func(g *pb.Generation) { g.Precision = name }) }
	for option, want := range map[string]*pb.Generation{
		`"maxTokens":100`:                      base(func(g *pb.Generation) { g.Sampling.MaxTokens = 100 }),
		`"temperature":0.5`:                    base(func(g *pb.Generation) { g.Sampling.Temperature = 0.5 }),
		`"topP":0.5`:                           base(func(g *pb.Generation) { g.Sampling.TopP = 0.5 }),
		`"topK":40`:                            base(func(g *pb.Generation) { g.Sampling.TopK = 40 }),
		`"minP":0.5`:                           base(func(g *pb.Generation) { g.Sampling.MinP = 0.5 }),
		`"repetitionPenalty":1.5`:              base(func(g *pb.Generation) { g.Sampling.RepetitionPenalty = 1.5 }),
		`"presencePenalty":0.5`:                base(func(g *pb.Generation) { g.Sampling.PresencePenalty = 0.5 }),
		`"frequencyPenalty":0.5`:               base(func(g *pb.Generation) { g.Sampling.FrequencyPenalty = 0.5 }),
		`"stop":["a","b"]`:                     base(func(g *pb.Generation) { g.Stop = []string{"a", "b"} }),
		`"seed":5`:                             base(func(g *pb.Generation) { g.Sampling.Seed, g.SeedSet = 5, true }),
		`"raw":true`:                           base(func(g *pb.Generation) { g.Input = &pb.Generation_Raw{Raw: "x"} }),
		`"system":"be kind"`:                   base(func(g *pb.Generation) { g.Input = withSystem("be kind", "x") }),
		`"model":"tiny"`:                       base(func(g *pb.Generation) { g.Model = "tiny" }),
		`"modelPath":"models/llama-7b"`:        base(func(g *pb.Generation) { g.Model = "models/llama-7b" }),
		`"precision":"int2"`:                   class("int2"),
		`"precision":"int3"`:                   class("int3"),
		`"precision":"int4"`:                   class("int4"),
		`"precision":"int8"`:                   class("int8"),
		`"precision":16`:                       class("fp16"),
		`"config":{"quantization":4}`:          class("int4"),
		`"config":{"quantization":"int3"}`:     class("int3"),
		`"config":{"quantization":"adaptive"}`: class("adaptive"),
		`"config":{"quantization":"adaptive","adaptivePrecisionConfig":{"mixedPrecision":true}}`: class("adaptive"),
		`"config":{"quantization":"adaptive","adaptivePrecisionConfig":{"kvCacheMixedPrecision":true}}`: base(func(g *pb.Generation) {
			g.Precision, g.Kv = "adaptive", &pb.KvOptions{Progressive: true}
		}),
		`"precision":"adaptive","config":{"adaptivePrecisionConfig":{"mixedPrecision":true,"layerPrecisions":{"embedding":8,"attention":3,"feedforward":"int4","lmhead":8}}}`: base(func(g *pb.Generation) {
			g.Precision, g.LayerPrecisions = "adaptive", map[string]string{"embedding": "int8", "attention": "int3", "feedforward": "int4", "lmhead": "int8"}
		}),
		`"config":{"kvCacheConfig":{"bits":3}}`:                                   kv(&pb.KvOptions{Bits: 3}),
		`"config":{"kvCacheConfig":{"groupSize":64}}`:                             kv(&pb.KvOptions{GroupSize: 64}),
		`"config":{"kvCacheConfig":{"maxSeqLen":8192}}`:                           kv(&pb.KvOptions{MaxSeqLen: 8192}),
		`"config":{"kvCacheConfig":{"maxSeqLen":12288.5}}`:                        kv(&pb.KvOptions{MaxSeqLen: 12289}),
		`"config":{"kvCacheConfig":{"progressivePrecision":true}}`:                kv(&pb.KvOptions{Progressive: true}),
		`"config":{"kvCacheConfig":{"bits":16,"groupSize":32}}`:                   kv(&pb.KvOptions{Bits: 16, GroupSize: 32}),
		`"config":{"trackMemoryUsage":true}`:                                      base(func(g *pb.Generation) { g.ReportMemory = true }),
		`"config":{"optimizeKVCache":true}`:                                       kv(&pb.KvOptions{Optimized: true}),
		`"config":{"kvCacheOptimization":false}`:                                  kv(&pb.KvOptions{Bits: 16}),
		`"config":{"contextCompressionEnabled":true,"contextCompressionRatio":4}`: kv(&pb.KvOptions{Compression: proto.Bool(true), CompressionRatio: 4}),
		`"config":{"contextCompressionEnabled":false}`:                            kv(&pb.KvOptions{Compression: proto.Bool(false)}),
		`"config":{"optimizeKVCache":true,"kvCacheConfig":{"bits":3,"attentionCompression":{"enabled":true,"compressionRatio":8,"compressTokensOlderThan":4096}}}`: kv(&pb.KvOptions{
			Optimized: true, Bits: 3, Compression: proto.Bool(true), CompressionRatio: 8, CompressOlder: proto.Uint32(4096)}),
		`"config":{"kvCacheConfig":{"attentionCompression":{"compressionRatio":4}},"contextCompressionRatio":4}`: kv(&pb.KvOptions{Compression: proto.Bool(true), CompressionRatio: 4}),
		`"config":{"quantization":"int4","kvCacheConfig":{"bits":4}}`:                                            base(func(g *pb.Generation) { g.Precision, g.Kv = "int4", &pb.KvOptions{Bits: 4} }),
		`"config":{"adaptiveBatchSize":false}`:                                                                   steps(&pb.Scheduling{Adaptive: proto.Bool(false)}),
		`"config":{"latencyOptimized":true}`:                                                                     steps(&pb.Scheduling{LowLatency: proto.Bool(true)}),
		`"config":{"lowLatencyMode":false,"latencyOptimized":false}`:                                             steps(&pb.Scheduling{LowLatency: proto.Bool(false)}),
		`"config":{"tokenPredictionEnabled":true}`:                                                               steps(&pb.Scheduling{Prediction: proto.Bool(true)}),
		`"config":{"streamingChunkSize":4096}`:                                                                   steps(&pb.Scheduling{Chunk: 4096}),
		`"precision":"int4","config":{"quantization":4,"kvCacheConfig":{}}`:                                      base(func(g *pb.Generation) { g.Precision, g.Kv = "int4", &pb.KvOptions{} }),
	} {
		plain, err := parsePlain([]byte(`{"prompt":"x",`+option+`}`), 10)
		if err != nil {
			t.Errorf("plain, %s: %v", option, err)
			continue
		}
		rich, err := parseRich([]byte(`{"v":1,"type":"generate","id":"a","prompt":"x",`+option+`}`), 10, false)
		if err != nil {
			t.Errorf("rich, %s: %v", option, err)
			continue
		}
		for protocol, got := range map[string]*pb.Generation{"plain": plain, "rich": rich.generation} {
			got.Tenant = "local" // which the caller's key gives
			if thinks := protocol == "rich" && got.GetRaw() == ""; got.SeparateReasoning != thinks {
				t.Errorf("%s, %s: thoughts apart: %t", protocol, option, !thinks)
			}
			got.SeparateReasoning = false
			if !proto.Equal(got, want) {
				t.Errorf("%s, %s: got %v, want %v", protocol, option, got, want)
			}
		}
	}
}

func withSystem(system, prompt string) *pb.Generation_Chat {
	return &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{{Role: "system", Content: system}, {Role: "user", Content: prompt}}}}
}

// TestGuideOptionsAreRefusedByName holds the options that act in the SDK, or that
// no shard honours.
func TestGuideOptionsAreRefusedByName(t *testing.T) {
	values := map[string]string{ // "true" where none is given
		"visionModelPath": `"models/clip-vit-base"`, "shardId": "0", "totalShards": "2",
		"workgroupSize": "[128,1,1]", "computeShaderOptimization": `"audio"`,
		"fallbackPreference": `["webgpu","wasm"]`, "fallbacks": `{"wasm":{"threads":true}}`, "profilingDetail": `"high"`,
		"reportIntervalMs": "1000", "logLevel": `"debug"`,
	}
	config := []string{
		"reducedModelSize", "visionModelPath", "shardId", "totalShards", "computeShaders",
		"streamingInference", "computeTransferOverlap", "memoryOptimizedMode", "progressiveLoading", "parallelLoading", "shaderPrecompilation",
		"parallelCompilation", "workgroupSize", "computeShaderOptimization", "metalOptimizations", "fallbackPreference",
		"fallbackToWebGL", "fallbacks", "enableProfiling", "profilingDetail", "collectLayerTiming",
		"reportIntervalMs", "debug", "logLevel", "debugInference", "debugTokens",
	}
	refused := map[string]string{ // member and value by name
		"text": `"text":"x"`, "imageData": `"imageData":"data:,x"`, "modelType": `"modelType":"text"`,
		"autoDetect": `"autoDetect":true`, "callback": `"callback":true`, "profilingCallback": `"profilingCallback":true`,
		"config.adaptivePrecisionConfig.dynamicAdaptation": `"precision":"adaptive","config":{"adaptivePrecisionConfig":{"dynamicAdaptation":true}}`,
	}
	for _, name := range config {
		refused["config."+name] = fmt.Sprintf(`"config":{%q:%s}`, name, orDefault(values[name], "true"))
	}
	for name, option := range refused {
		_, plain := parsePlain([]byte(`{"prompt":"x",`+option+`}`), 10)
		_, rich := parseRich([]byte(`{"v":1,"type":"generate","id":"a","prompt":"x",`+option+`}`), 10, false)
		for protocol, err := range map[string]error{"plain": plain, "rich": rich} {
			if err == nil {
				t.Errorf("%s, %s: taken, and without an effect", protocol, option)
				continue
			}
			if p := problemOf(err); p.code != codeUnsupported || p.param != name {
				t.Errorf("%s, %s: %s on %q, want %s on %q", protocol, option, p.code, p.param, codeUnsupported, name)
			}
		}
	}
}

// TestKVOptionsThatContradict: two names of one wish that differ are an error of the
// second.
func TestKVOptionsThatContradict(t *testing.T) {
	for config, param := range map[string]string{
		`{"optimizeKVCache":true,"kvCacheOptimization":false}`:                                                         "config.kvCacheOptimization",
		`{"optimizeKVCache":false,"kvCacheConfig":{"bits":4}}`:                                                         "config.optimizeKVCache",
		`{"contextCompressionEnabled":true,"kvCacheConfig":{"attentionCompression":{"enabled":false}}}`:                "config.contextCompressionEnabled",
		`{"contextCompressionRatio":8,"kvCacheConfig":{"attentionCompression":{"enabled":true,"compressionRatio":4}}}`: "config.contextCompressionRatio",
		`{"kvCacheConfig":{"attentionCompression":{"enabled":"yes"}}}`:                                                 "config.kvCacheConfig.attentionCompression.enabled",
		`{"kvCacheConfig":{"attentionCompression":{"compressionRatio":0}}}`:                                            "config.kvCacheConfig.attentionCompression.compressionRatio",
	} {
		_, err := parsePlain([]byte(`{"prompt":"x","config":`+config+`}`), 10)
		if err == nil || problemOf(err).param != param || problemOf(err).code != codeInvalid {
			t.Errorf("%s: %v, want %s on %s", config, err, codeInvalid, param)
		}
	}
}

// TestUnservedGuideOptionsKeepTheirNames: what the coordinator refuses is named
// as the client wrote it, on both protocols.
func TestUnservedGuideOptionsKeepTheirNames(t *testing.T) {
	f := serve(t)
	plain, rich := f.dial(t, nil), f.rich(t)
	for param, want := range guideParams {
		f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent(codeUnsupported, param, false)) })
		plain.send(`{"prompt":"x"}`)
		if got := plain.read(); got["param"] != want {
			t.Errorf("plain: %v, want %s", got, want)
		}
		rich.generate("a", "")
		if got := rich.read(); got["param"] != want {
			t.Errorf("rich: %v, want %s", got, want)
		}
	}
}

// TestBadPrecisionsAreNamed: values that no weights can take, and wishes that
// contradict each other.
func TestBadPrecisionsAreNamed(t *testing.T) {
	for option, param := range map[string]string{
		`"precision":5`:                                                 "precision",
		`"precision":""`:                                                "precision",
		`"config":{"quantization":0}`:                                   "config.quantization",
		`"config":{"quantization":7.5}`:                                 "config.quantization",
		`"precision":"int8","config":{"quantization":"int4"}`:           "config.quantization",
		`"config":{"adaptivePrecisionConfig":{"mixedPrecision":true}}`:  "config.adaptivePrecisionConfig",
		`"config":{"quantization":"int4","adaptivePrecisionConfig":{}}`: "config.adaptivePrecisionConfig",
		`"precision":"adaptive","config":{"adaptivePrecisionConfig":{"mixedPrecision":false}}`:            "config.adaptivePrecisionConfig.mixedPrecision",
		`"precision":"adaptive","config":{"adaptivePrecisionConfig":{"layerPrecisions":{"attention":5}}}`: "config.adaptivePrecisionConfig.layerPrecisions.attention",
		`"precision":"adaptive","config":{"adaptivePrecisionConfig":{"layerPrecisions":{"lmhead":true}}}`: "config.adaptivePrecisionConfig.layerPrecisions.lmhead",
		`"precision":"adaptive","config":{"adaptivePrecisionConfig":{"kvCacheMixedPrecision":1}}`:         "config.adaptivePrecisionConfig.kvCacheMixedPrecision",
	} {
		_, plain := parsePlain([]byte(`{"prompt":"x",`+option+`}`), 10)
		_, rich := parseRich([]byte(`{"v":1,"type":"generate","id":"a","prompt":"x",`+option+`}`), 10, false)
		for protocol, err := range map[string]error{"plain": plain, "rich": rich} {
			if err == nil {
				t.Errorf("%s, %s: taken", protocol, option)
			} else if p := problemOf(err); p.code != codeInvalid || p.param != param {
				t.Errorf("%s, %s: %s on %q, want %s on %q", protocol, option, p.code, p.param, codeInvalid, param)
			}
		}
	}
}
