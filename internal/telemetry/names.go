package telemetry

import "go.opentelemetry.io/otel/attribute"

// This file holds every name that leaves the process in traces and metrics.
// The gen_ai names are OpenTelemetry's conventions for generative AI
// (https://github.com/open-telemetry/semantic-conventions-genai); the shoal
// names are our own. Prometheus shows them with underscores and units, as
// gen_ai_server_time_to_first_token_seconds.

// The scope that all spans and instruments belong to.
const scopeName = "github.com/shoal-llm/shoal"

// The provider of every answer.
const providerName = "shoal"

// Operations of a request, as gen_ai.operation.name has them.
const (
	Chat       = "chat"
	Completion = "text_completion"
	Embeddings = "embeddings"
)

// Spans below a request, which itself is called by operation and model
// ("chat tiny").
const (
	SpanQueue    = "queue"    // waits for admission
	SpanTokenize = "tokenize" // template and tokens
	SpanPrefill  = "prefill"  // prompt to first token
	SpanDecode   = "decode"   // first to last token
	SpanStep     = "step"     // one batch through the pipeline
	SpanStage    = "stage"    // one stage's part of a step
)

// Metrics of the conventions.
const (
	metricTTFT         = "gen_ai.server.time_to_first_token"
	metricTPOT         = "gen_ai.server.time_per_output_token"
	metricRequest      = "gen_ai.server.request.duration"
	metricTokenUsage   = "gen_ai.client.token.usage"
	metricInputTokens  = "gen_ai.client.inference.usage.input_tokens"  // the newer names of
	metricOutputTokens = "gen_ai.client.inference.usage.output_tokens" // token usage
)

// Metrics of our own.
const (
	metricRequestsRunning = "shoal.requests.running"
	metricRequestsWaiting = "shoal.requests.waiting"
	metricSessions        = "shoal.sessions"
	metricLanes           = "shoal.lanes"
	metricDrafts          = "shoal.drafts"
	metricTokensCached    = "shoal.tokens.cached"
	metricTokensPrompt    = "shoal.tokens.prompt"
	metricTokensGenerated = "shoal.tokens.generated"
	metricStageDuration   = "shoal.stage.duration"
	metricStageWait       = "shoal.stage.wait"
	metricStageRows       = "shoal.stage.rows"
	metricHopBytes        = "shoal.hop.bytes"
	metricHopDuration     = "shoal.hop.duration"
	metricKVUsed          = "shoal.kv.used"
	metricKVCapacity      = "shoal.kv.capacity"
	metricKVEvictions     = "shoal.kv.evictions"
	metricShardLayers     = "shoal.shard.layers"
	metricLoadBytes       = "shoal.model.load.bytes"
	metricLoadDuration    = "shoal.model.load.duration"
	metricMembers         = "shoal.gossip.members"
)

// Attributes of metrics. Each has few values: never a request id, never text
// from a user.
const (
	attrOperation = attribute.Key("gen_ai.operation.name")
	attrProvider  = attribute.Key("gen_ai.provider.name")
	attrModel     = attribute.Key("gen_ai.request.model")
	attrTokenType = attribute.Key("gen_ai.token.type")
	attrErrorType = attribute.Key("error.type")
	attrStage     = attribute.Key("shoal.stage")
	attrState     = attribute.Key("shoal.state")
)

// Attributes of spans only.
const (
	attrMaxTokens     = attribute.Key("gen_ai.request.max_tokens")
	attrTemperature   = attribute.Key("gen_ai.request.temperature")
	attrTopP          = attribute.Key("gen_ai.request.top_p")
	attrSeed          = attribute.Key("gen_ai.request.seed")
	attrResponseID    = attribute.Key("gen_ai.response.id")
	attrResponseModel = attribute.Key("gen_ai.response.model")
	attrFinishReasons = attribute.Key("gen_ai.response.finish_reasons")
	attrInputTokens   = attribute.Key("gen_ai.usage.input_tokens")
	attrOutputTokens  = attribute.Key("gen_ai.usage.output_tokens")
	attrPipeline      = attribute.Key("shoal.pipeline")
	attrEpoch         = attribute.Key("shoal.epoch")
	attrStep          = attribute.Key("shoal.step")
	attrRows          = attribute.Key("shoal.rows")
	attrWait          = attribute.Key("shoal.wait")
	attrNode          = attribute.Key("shoal.node")
	attrFirstLayer    = attribute.Key("shoal.layer.first")
	attrEndLayer      = attribute.Key("shoal.layer.end")
)

// Attributes of the process.
const (
	attrServiceName     = attribute.Key("service.name")
	attrServiceVersion  = attribute.Key("service.version")
	attrServiceInstance = attribute.Key("service.instance.id")
	attrRole            = attribute.Key("shoal.role")
)

// Buckets of the conventions, and of ours where they have none.
var (
	bucketsTTFT = []float64{
		.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10,
	}
	bucketsTPOT = []float64{
		.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5,
	}
	bucketsRequest = []float64{
		.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
	}
	bucketsTokens = []float64{
		1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
	}
	bucketsStage = []float64{
		.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
	}
	bucketsRows = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048}
	bucketsLoad = []float64{.1, .5, 1, 5, 10, 30, 60, 120, 300, 600, 1800}
)
