"""What the gateways are configured with."""

from rig.names import PATH

# Long, for every gateway alike: a machine that stalls for 50 ms is not an
# outage of Redis, and must not count as wrong answers.
DEADLINE_MS = 500
# Where only memory is looked at, and a thousand ask at once.
DEADLINE_MEMORY_MS = 5_000

TOLLGATE = """\
server:
{listener}
  admin: {{listen: "127.0.0.1:{admin_port}"}}
  threads: {threads}
upstream:
  addresses: ["127.0.0.1:{upstream_port}"]
balances:
  redis: {{url: "redis://127.0.0.1:{redis_port}", deadline: {deadline_ms}ms}}
log: {{access: {access_log}}}
identity:
{identities}  - header: {{name: x-team-id, from: ["127.0.0.0/8"]}}
routes:
{routes}"""
# Every start sets a credit aside for two seconds: a team with as many live holds
# as starts come in that time, and as many that expire as are made.
HOLD_MODE = """\
admission: {mode: hold, hold: 1, hold_for: 2s}
"""
# The same, and the run's id is read from each answer and bound to the hold.
HOLD_MODE_WITH_RUNS = """\
admission: {mode: hold, hold: 1, hold_for: 2s, run_id: /run_id}
"""

# Every other way in which a run can start, beside the route that is measured:
# the identities and routes that a request has to get past.
OTHER_WAYS = """\
  - start: POST /integrations/slack
    webhook: {kind: slack, secret: bench, team_key: "slack:<workspace>"}
    refuse_with: message
  - start: POST /integrations/linear
    webhook: {kind: linear, secret: bench, team_key: "linear:<workspace>"}
    refuse_with: message
  - start: POST /webhooks/w/{uid}/{token}
    trigger: webhook
    team_from: {path: uid, team_key: "webhook:<uid>", token: token}
  - start: POST /api/v1/agent/runs/{run}/followups
    team_from: {path: run, team_key: "run:<run>", else: identity}
admission:
  trigger_from: {header: x-oz-api-source, from: ["127.0.0.0/8"], map: {SCHEDULED_AGENT: schedule}}
"""
OTHER_IDENTITIES = """\
  - jwt: {secret: a-secret-of-the-load-test-32-bytes, issuer: bench, audience: bench, team_claim: team}
  - api_key: {}
"""


def tollgate(port, admin_port, upstream_port, redis_port, deadline_ms, *, listener=None, more="", identities="",
             routes=1, threads=1, access_log="off"):
    """tollgate's configuration; of several routes the one that is asked for comes last."""
    others = "".join(f"  - start: POST /api/v{number}/agent/{{id}}/tasks\n" for number in range(2, routes + 1))
    return TOLLGATE.format(
        listener=listener or f'  listen: ["127.0.0.1:{port}"]', admin_port=admin_port,
        upstream_port=upstream_port, redis_port=redis_port, deadline_ms=deadline_ms,
        identities=identities, threads=threads, access_log=access_log,
        routes=f"{others}  - start: POST {PATH}\n",
    ) + more


ENVOY = """\
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - {transport_socket}filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: starts
          codec_type: AUTO
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: tasks, timeout: 60s}}}}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              http_service:
                server_uri: {{uri: "127.0.0.1:{authorizer_port}", cluster: authorizer, timeout: {deadline_seconds}s}}
                authorization_request: {{}}
              allowed_headers: {{patterns: [{{exact: x-team-id}}]}}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
{clusters}"""
ENVOY_CLUSTER = """\
  - name: {name}
    connect_timeout: 1s
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 65536, max_pending_requests: 65536, max_requests: 65536}}]}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"""
ENVOY_TLS = """\
transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {cert}}}, private_key: {{filename: {key}}}}}]}}
      """


def envoy(port, admin_port, upstream_port, authorizer_port, deadline_ms, tls=None):
    """Envoy's configuration, with an HTTP authorizer that is asked for each request."""
    clusters = (ENVOY_CLUSTER.format(name=name, port=its)
                for name, its in (("tasks", upstream_port), ("authorizer", authorizer_port)))
    return ENVOY.format(
        port=port, admin_port=admin_port, clusters="".join(clusters), authorizer_port=authorizer_port,
        deadline_seconds=deadline_ms / 1000, transport_socket=ENVOY_TLS.format(cert=tls[0], key=tls[1]) if tls else "",
    )
