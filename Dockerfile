# SPDX-License-Identifier: Apache-2.0
#
# For those who build with Docker; `make image` makes the same image without it.
#
#   docker buildx build --platform=linux/amd64,linux/arm64 -t m2m-operator .
#
# The builder runs on the builder's own platform and cross-compiles. Its tag is for people: the digest decides.

FROM --platform=$BUILDPLATFORM golang:1.26.5@sha256:3aff6657219a4d9c14e27fb1d8976c49c29fddb70ba835014f477e1c70636647 AS builder
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api/ api/
COPY cmd/ cmd/
COPY internal/ internal/
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags="-s -w" -o /manager ./cmd

# The program and nothing else, not even certificate authorities: it brings them along.
FROM scratch
LABEL org.opencontainers.image.title=m2m-operator \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.source=https://github.com/m2m-operator/m2m-operator
COPY --from=builder /manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
