# syntax=docker/dockerfile:1
# One static binary and nothing else: no shell, no libc, no package manager.
#
#   docker build -t shoal .
#   docker run --rm shoal run tiny "Tell me a story about a fox."

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
ENV CGO_ENABLED=0

# The modules change less often than the code: this layer is reused.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

# What of the repository comes along is listed in .dockerignore.
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=0.1.0-dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/shoal ./cmd/shoal

# The program that drives GPUs, for docker build --target gpu. It needs a C
# compiler here, and there the Vulkan loader and a driver, which NVIDIA's runtime
# mounts (docker run --gpus all).
FROM --platform=linux/amd64 golang:1.26-bookworm AS build-gpu
WORKDIR /src
ENV CGO_ENABLED=1
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=0.1.0-dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/shoal-gpu ./cmd/shoal-gpu

FROM --platform=linux/amd64 debian:bookworm-slim AS gpu
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libvulkan1 libxext6 libegl1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/shoal /shoal
COPY --from=build-gpu /out/shoal-gpu /shoal-gpu
ENV NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility
USER 65532:65532
EXPOSE 7700 7946/tcp 7946/udp 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["/shoal", "health"]
ENTRYPOINT ["/shoal"]
CMD ["--help"]

FROM scratch
ARG VERSION=0.1.0-dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="shoal" \
      org.opencontainers.image.description="One large language model over whatever machines you have" \
      org.opencontainers.image.source="https://github.com/shoal-llm/shoal" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# For telemetry that is sent to a collector by TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/shoal /shoal
USER 65532:65532
# Nodes: 7700 (gRPC), 7946 (gossip). Gateway: 8080 (HTTP, WebSocket).
EXPOSE 7700 7946/tcp 7946/udp 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["/shoal", "health"]
ENTRYPOINT ["/shoal"]
CMD ["--help"]
