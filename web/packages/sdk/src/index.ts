/** The JavaScript side of Shoal: answers of a model that a cluster computes. */
export { WebPlatformAccelerator, createStreamingEndpoint, createWebEndpoint, getOptimalConfig } from './accelerator.js';
export type { Endpoint, StreamingEndpoint } from './accelerator.js';
export { WebGPUStreamingInference } from './streaming.js';
export { LLMError } from './errors.js';
export { getCluster, watchCluster } from './cluster.js';
export type { ClusterReport, ClusterWatcher, ModelReport, NodeReport, PipelineReport, StageReport, StageSpeedReport } from './cluster.js';
export type { AdaptivePrecisionConfig, Config, DeviceKind, KVCacheConfig, LogLevel, Precision } from './config.js';
export type {
  ChatMessage, ContentPart, EndpointConfig, FinishReason, GenerateRequest, GenerationResult, ImageInput, Progress, Timings, TokenChunk, Usage,
} from './requests.js';
export type { KVInfo, ReadyReport, StageInfo } from './variant.js';
export type { DebugCallbacks, DebugInfo } from './debug.js';
export type { Bottleneck, HopProfile, PerformanceProfile, ProfileUpdate, StageProfile, Suggestion, Suggestions } from './profile.js';
export type { MemoryReport, StageMemory } from './memory.js';
export type { Capabilities } from './capabilities.js';
export type { BenchmarkOptions, BenchmarkReport, BenchmarkRun } from './benchmark.js';
export type { DiagnosticOptions, DiagnosticReport, FixResult, Issue } from './diagnostics.js';
export type { OptimalOptions } from './optimal.js';
export type { SocketLike } from './server-socket.js';
export type { Where } from './where.js';
