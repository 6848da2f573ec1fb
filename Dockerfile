# syntax=docker/dockerfile:1

# Built for the system it runs on: both stages are the same release of Debian.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY . .
# The caches stay between builds; the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package abunfi-cli --bin abunfi \
    && install -D --mode=0755 target/release/abunfi /out/abunfi \
    && install --directory --mode=0700 /out/data

FROM debian:bookworm-slim
# A number and not a name, so that an orchestrator can see that it is not root.
COPY --from=build /out/abunfi /usr/local/bin/abunfi
COPY --from=build --chown=10001:10001 /out/data /var/lib/abunfi
ENV HOST=0.0.0.0 \
    PORT=3001 \
    DATA_DIR=/var/lib/abunfi
VOLUME /var/lib/abunfi
WORKDIR /var/lib/abunfi
USER 10001:10001
EXPOSE 3001
# Ends in order on SIGTERM: finishes what runs, then exits with 0.
STOPSIGNAL SIGTERM
ENTRYPOINT ["abunfi"]
CMD ["serve"]
