# SPDX-License-Identifier: Apache-2.0
#
# make image, or: docker buildx build --platform=linux/amd64,linux/arm64 -t m2m-operator .
# The builder runs on the builder's own platform and cross-compiles.

FROM --platform=$BUILDPLATFORM golang:1.26 AS builder
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api/ api/
COPY cmd/ cmd/
COPY internal/ internal/
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags="-s -w" -o /manager ./cmd

# The certificate authorities and nothing else: no shell, no package manager, no user but this one.
FROM gcr.io/distroless/static:nonroot
COPY --from=builder /manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
