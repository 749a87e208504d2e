# syntax=docker/dockerfile:1
ARG VERSION="3.20" DIGEST
FROM --platform=$BUILDPLATFORM alpine:${VERSION} AS Build
maintainer  A. Author   <a@example.org>
ENV one two  three
ENV a=1 b="2 3" c=4\ 5 d='6 "7"' \
    # a comment in between
    e=
LABEL org.example.title="a \"quoted\" word" empty=""
EXPOSE 80/tcp   53/udp $PORT
VOLUME /data /var/log
VOLUME ["/a b", "/c"]
WORKDIR /src dir
USER nobody:nogroup
STOPSIGNAL SIGTERM
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN --mount=type=cache,target="/root/.cache" --network=none -- --not-a-flag && echo "it's"
RUN ["a", "tab\tand \u00fc", "\ud83d\ude00"]
RUN [ 'single', 'quotes' ]
RUN ["unterminated"
CMD []
ENTRYPOINT exec top -b
COPY --from=build --chown=1:2 a b /dest/
ADD ["a file", "https://example.org/x", "/dest/"]
HEALTHCHECK --interval=5m  CMD   curl -f http://localhost/ || exit 1
HEALTHCHECK CMD ["true"]
HEALTHCHECK NONE
ONBUILD  COPY . /app
ONBUILD
FOO bar
