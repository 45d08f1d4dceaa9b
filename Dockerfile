# syntax=docker/dockerfile:1
# tollgate in a small image:   docker build -t tollgate .
# Two stages: the first has compilers, the second has the program, the C
# library and CA certificates, no shell, and a user who is not root.

FROM rust:1.95-slim-bookworm AS build

# cmake and make build zlib-ng; the image brings gcc. Debian's point releases
# fix these packages; a pinned version would disappear from the mirror.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build

# The dependencies, against an empty program: this layer takes minutes and is
# built again only when the manifests change. Cargo wants a file for every
# bench that the manifest names, so those are made too.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && awk '/^\[/ { bench = ($0 == "[[bench]]") } \
            bench && /^name *=/ { gsub(/"/, "", $3); print "fn main() {}" > ("benches/" $3 ".rs") }' Cargo.toml \
    && cargo build --locked --release --bin tollgate

COPY config config
COPY src src
# COPY keeps the sources' dates, which are older than the empty program's.
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --release --bin tollgate \
    && install -D -m 0755 target/release/tollgate /out/usr/local/bin/tollgate \
    && install -D -m 0644 config/container.yaml /out/etc/tollgate/tollgate.yaml \
    && /out/usr/local/bin/tollgate check /out/etc/tollgate/tollgate.yaml

FROM gcr.io/distroless/cc-debian12:nonroot

LABEL org.opencontainers.image.title="tollgate" \
      org.opencontainers.image.description="An edge gateway that lets a request start a run only if the team that pays for it has credits" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /out/ /

# The name `nonroot` would hide from Kubernetes' runAsNonRoot who this is.
USER 65532:65532
# The public listener. The admin listener (9901) stays inside the container
# unless TOLLGATE_ADMIN says otherwise.
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["tollgate", "ready", "--config", "/etc/tollgate/tollgate.yaml"]
ENTRYPOINT ["tollgate"]
CMD ["run", "--config", "/etc/tollgate/tollgate.yaml"]
