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
