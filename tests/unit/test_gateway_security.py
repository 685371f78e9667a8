"""Authentication, cross-site protection, limits and security headers, without Redis."""

import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts

from batchflow.gateway.app import make_gateway
from batchflow.gateway.security.access import (
    CSRF_FIELD,
    CSRF_HEADER,
    OPEN_PATHS,
    PRINCIPAL_KEY,
    SESSION_S,
    Access,
    Principal,
)
from batchflow.gateway.security.access import csrf_token as csrf_token_for
from batchflow.gateway.security.middleware import MAX_BODY_BYTES
from batchflow.gateway.security.rate_limit import LOGINS, REQUESTS
from batchflow.settings import Settings
from tests.kit.asgi import Answer, InProcess

TOKEN = "a token that is long enough"
BEARER = f"Bearer {TOKEN}"
CANCEL = f"/api/jobs/bf-{'a' * 26}/cancel"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def app(**values: object) -> FastAPI:
    return make_gateway(Settings.model_validate({"redis_url": "redis://127.0.0.1:1/0"} | values))


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path of the app."""
    found = []
    for route in iter_route_contexts(app.routes):
        path = re.sub(r"\{[^}]*\}", "bf-" + "a" * 26, route.path or "")
        found += [(method, path) for method in route.methods or ["GET"]]
    return found


@pytest.fixture
def open_gateway() -> Iterator[InProcess]:
    with InProcess(app()) as gateway:
        yield gateway


@pytest.fixture
def secured() -> Iterator[InProcess]:
    with InProcess(app(api_token=TOKEN)) as gateway:
        yield gateway


def session_cookie(answer: Answer) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


def log_in(gateway: InProcess, **headers: str) -> str:
    """Log in and return the cookie that the browser then sends."""
    answer = gateway.post("/login", f"token={TOKEN.replace(' ', '+')}", **headers)
    assert answer.status == 303, answer.text
    return session_cookie(answer)


def csrf_token(gateway: InProcess, cookie: str) -> str:
    """The CSRF token in the forms of a session's pages."""
    access: Access = gateway.app.state.access
    session = access.session_of(cookie.partition("=")[2])
    assert session
    return access.csrf_token(session)


class TestToken:
    def test_every_route_that_is_not_open_needs_it(self, secured: InProcess) -> None:
        protected = [(m, path) for m, path in routes(secured.app) if path not in OPEN_PATHS]
        assert len(protected) > 8
        for method, path in protected:
            if path.startswith("/static"):
                continue
            answer = secured.request(method, path)
            assert answer.status == 401, (method, path)
            assert answer.message.startswith("This needs a token")
            assert answer.headers["www-authenticate"] == "Bearer"

    def test_open_paths_do_not(self, secured: InProcess) -> None:
        assert {"/webhooks/openai", "/healthz", "/readyz", "/login"} == OPEN_PATHS
        for method, path in routes(secured.app):
            if path in OPEN_PATHS:
                assert secured.request(method, path).status != 401 or path == "/login", path
        assert secured.get("/static/page.css").status == 200

    def test_unknown_paths_need_it_too(self, secured: InProcess) -> None:
        assert secured.get("/api/nothing").status == 401

    @pytest.mark.parametrize("path", ["/static/../metrics", "/static/../../app.py", "//metrics"])
    def test_no_path_bypasses_it(self, secured: InProcess, path: str) -> None:
        assert secured.get(path).status in (401, 404)

    @pytest.mark.parametrize("value", [BEARER, f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
    def test_it_authorizes_requests(self, secured: InProcess, value: str) -> None:
        assert secured.get("/api/openapi.json", authorization=value).status == 200

    @pytest.mark.parametrize(
        "value",
        [
            *("", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"),
            *(f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", "Bearer ü", "Bearer \x00"),
        ],
    )
    def test_other_values_are_refused(self, secured: InProcess, value: str) -> None:
        assert secured.get("/api/openapi.json", authorization=value).status == 401

    def test_a_trailing_newline_is_ignored(self) -> None:
        with InProcess(app(api_token=f"{TOKEN}\n")) as gateway:
            assert gateway.get("/api/openapi.json", authorization=BEARER).status == 200

    def test_it_may_have_any_characters(self) -> None:
        token = "ein Schlüssel 🔑, lang genug"
        with InProcess(app(api_token=token)) as gateway:
            # The body that a browser sends.
            form = "token=ein+Schl%C3%BCssel+%F0%9F%94%91%2C+lang+genug"
            assert gateway.post("/login", form).status == 303

    def test_without_one_everything_is_open(self, open_gateway: InProcess) -> None:
        assert open_gateway.get("/api/openapi.json").status == 200
        assert open_gateway.get("/login").headers["location"] == "/"


class TestLogin:
    def test_a_browser_is_redirected_to_the_form_and_back(self, secured: InProcess) -> None:
        asked = secured.get("/jobs/bf-1?tab=a%20b&x=%C3%BC", accept=HTML)
        assert asked.status == 303
        where = urlsplit(asked.headers["location"])
        assert where.path == "/login"
        (wanted,) = parse_qs(where.query)["next"]
        form = secured.get(asked.headers["location"], accept=HTML)
        assert form.status == 200
        assert wanted in form.text.replace("&amp;", "&")
        done = secured.post("/login", urlencode({"token": TOKEN, "next": wanted}))
        assert done.status == 303
        assert done.headers["location"] == wanted

    def test_a_stream_is_refused_without_a_redirect(self, secured: InProcess) -> None:
        assert secured.get("/api/events", accept="text/event-stream").status == 401

    def test_a_session_authorizes_requests_without_the_token(self, secured: InProcess) -> None:
        cookie = log_in(secured)
        assert TOKEN not in cookie
        assert secured.get("/api/openapi.json", cookie=cookie).status == 200

    def test_the_cookie_is_hidden_from_scripts_and_sites(self, secured: InProcess) -> None:
        answer = secured.post("/login", f"token={TOKEN}")
        attributes = answer.headers["set-cookie"].split("; ")[1:]
        assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=lax", f"Max-Age={SESSION_S}"}

    def test_over_tls_the_cookie_is_secure(self) -> None:
        with InProcess(app(api_token=TOKEN, public_url="https://batches.example/")) as gateway:
            answer = gateway.post("/login", f"token={TOKEN}", host="batches.example")
            assert "Secure" in answer.headers["set-cookie"]
            assert answer.headers["set-cookie"].startswith("__Host-")
            cookie = session_cookie(answer)
            inside = {"host": "batches.example", "cookie": cookie}
            assert gateway.get("/api/openapi.json", **inside).status == 200
            # Another host of the domain could have set a cookie without the prefix.
            inside["cookie"] = cookie.removeprefix("__Host-")
            assert gateway.get("/api/openapi.json", **inside).status == 401

    def test_gateways_on_one_machine_use_different_cookies(self, secured: InProcess) -> None:
        names = {log_in(secured, host=f"localhost:{port}").partition("=")[0] for port in (80, 81)}
        assert len(names) == 2

    @pytest.mark.parametrize("same", [TOKEN, f"{TOKEN}\n"], ids=["equal", "from a file"])
    def test_gateways_with_the_same_token_share_sessions(self, same: str) -> None:
        with InProcess(app(api_token=TOKEN)) as one, InProcess(app(api_token=same)) as other:
            assert other.get("/api/openapi.json", cookie=log_in(one)).status == 200

    def test_a_new_token_ends_all_sessions(self, secured: InProcess) -> None:
        with InProcess(app(api_token="another token, long enough")) as other:
            assert other.get("/api/openapi.json", cookie=log_in(secured)).status == 401

    def test_a_session_ends(self, secured: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        cookie, now = log_in(secured), time.time()
        monkeypatch.setattr(time, "time", lambda: now + SESSION_S - 60)
        assert secured.get("/api/openapi.json", cookie=cookie).status == 200
        monkeypatch.setattr(time, "time", lambda: now + SESSION_S + 60)
        assert secured.get("/api/openapi.json", cookie=cookie).status == 401

    def test_a_forged_cookie_is_refused(self, secured: InProcess) -> None:
        name, _, value = log_in(secured).partition("=")
        payload, _, signature = value.rpartition(".")
        other, _, _ = log_in(secured).partition("=")[2].rpartition(".")
        for forged in (
            *(f"{other}.{signature}", f"{payload[:-1]}B.{signature}", f"{value}0"),
            *(f"{payload}.{'0' * 43}", payload, f".{signature}", TOKEN, "", "ü", '"'),
        ):
            assert secured.get("/api/openapi.json", cookie=f"{name}={forged}").status == 401

    def test_a_wrong_token_is_reported_but_not_repeated(self, secured: InProcess) -> None:
        answer = secured.post("/login", "token=hunter2hunter2&next=/jobs")
        assert answer.status == 401
        assert "Wrong token" in answer.text
        assert "hunter2" not in answer.text
        assert "set-cookie" not in answer.headers
        assert 'value="/jobs"' in answer.text

    @pytest.mark.parametrize(
        "next_",
        [
            *("https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example"),
            *("javascript:alert(1)", "\\\\evil.example", "evil", "", "/a\r\nX: y", "/ü"),
        ],
    )
    def test_the_login_never_redirects_to_another_host(
        self, secured: InProcess, next_: str
    ) -> None:
        answer = secured.post("/login", urlencode({"token": TOKEN, "next": next_}))
        assert answer.headers["location"] == "/"
        query = urlencode({"next": next_})
        again = secured.get(f"/login?{query}", cookie=session_cookie(answer))
        assert again.headers["location"] == "/"

    def test_attempts_are_limited_by_client(self, secured: InProcess) -> None:
        form = [(b"content-type", b"application/x-www-form-urlencoded")]

        def attempt(token: str, client: str) -> Answer:
            body = [f"token={token}".encode()]
            return secured.request("POST", "/login", form, body, client)

        for n in range(LOGINS.amount):
            assert attempt(f"guess {n}", "203.0.113.7").status == 401
        refused = attempt(TOKEN, "203.0.113.7")
        assert refused.status == 429
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert attempt(TOKEN, "203.0.113.8").status == 303

    def test_ipv6_addresses_with_one_prefix_are_one_client(self, secured: InProcess) -> None:
        form = [(b"content-type", b"application/x-www-form-urlencoded")]
        statuses = [
            secured.request("POST", "/login", form, [b"token=x"], f"2001:db8::{n:x}").status
            for n in range(LOGINS.amount + 1)
        ]
        assert statuses[-1] == 429

    def test_logging_out_deletes_the_cookie(self, secured: InProcess) -> None:
        cookie = log_in(secured)
        form = f"{CSRF_FIELD}={csrf_token(secured, cookie)}"
        answer = secured.post("/logout", form, cookie=cookie)
        assert answer.status == 303
        assert "Max-Age=0" in answer.headers["set-cookie"]

    def test_another_site_cannot_log_a_user_out(self, secured: InProcess) -> None:
        answer = secured.post("/logout", "", cookie=log_in(secured))
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


def test_a_form_gives_no_session_to_an_unauthorized_sender(secured: InProcess) -> None:
    scope = {"type": "http", "app": secured.app, PRINCIPAL_KEY: Principal(None, has_token=False)}
    with pytest.raises(PermissionError):
        csrf_token_for(Request(scope))


class TestOtherSites:
    """A cancellation that passes the middleware gets a 503 here, because there is no Redis."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
            {"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:8080"},
            {"origin": "https://evil.example"},
            {"origin": "http://127.0.0.1:9999"},
            {"origin": "null"},
        ],
    )
    @pytest.mark.parametrize("path", [CANCEL, "/login", "/logout", "/nothing"])
    def test_a_page_of_another_site_can_change_nothing(
        self, open_gateway: InProcess, secured: InProcess, path: str, headers: dict[str, str]
    ) -> None:
        for gateway, more in ((open_gateway, {}), (secured, {"authorization": BEARER})):
            answer = gateway.post(path, **headers, **more)
            assert answer.status == 403
            assert "another web site" in answer.message

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:8080"},
            {"sec_fetch_site": "none"},
            {"origin": "http://127.0.0.1:8080"},
            # The proxy uses another name than the browser.
            {"origin": "https://batches.example"},
        ],
    )
    def test_pages_of_the_gateway_can_with_their_csrf_token(self, headers: dict[str, str]) -> None:
        with InProcess(app(api_token=TOKEN, public_url="https://batches.example")) as gateway:
            cookie = log_in(gateway)
            token = csrf_token(gateway, cookie)
            form = f"{CSRF_FIELD}={token}"
            assert gateway.post(CANCEL, form, cookie=cookie, **headers).status == 503
            script = {"x_csrf_token": token, "cookie": cookie, **headers}
            assert CSRF_HEADER.lower() == "x-csrf-token"
            assert gateway.post(CANCEL, **script).status == 503

    def test_missing_and_foreign_csrf_tokens_are_refused(self, secured: InProcess) -> None:
        cookie, other = log_in(secured), log_in(secured)
        for token in ("", "0" * 64, "\u00fc", csrf_token(secured, other)):
            answer = secured.post(CANCEL, urlencode({CSRF_FIELD: token}), cookie=cookie)
            assert answer.status == 403, token
            assert "out of date" in answer.message

    def test_a_request_with_the_token_needs_no_csrf_token(self, secured: InProcess) -> None:
        assert secured.post(CANCEL, authorization=BEARER).status == 503

    def test_without_a_token_only_browsers_need_a_csrf_token(self, open_gateway: InProcess) -> None:
        assert open_gateway.post(CANCEL).status == 503
        assert open_gateway.post(CANCEL, sec_fetch_site="same-origin").status == 403

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.1.2.3:8080"],
    )
    def test_without_a_token_other_host_names_are_refused(
        self, open_gateway: InProcess, host: str
    ) -> None:
        for method, path in routes(open_gateway.app):
            if path in OPEN_PATHS - {"/login"}:
                continue
            answer = open_gateway.request(method, path, [(b"host", host.encode())])
            assert answer.status == 403, (method, path)
            assert "BATCHFLOW_API_TOKEN" in answer.message

    @pytest.mark.parametrize("hosts", [["["], [""], ["@127.0.0.1"], ["a:b"], ["localhost", "evil"]])
    def test_a_malformed_host_is_refused(
        self, open_gateway: InProcess, secured: InProcess, hosts: list[str]
    ) -> None:
        headers = [(b"host", host.encode()) for host in hosts]
        bearer = (b"authorization", BEARER.encode())
        for gateway in (open_gateway, secured):
            for method, path in routes(gateway.app):
                answer = gateway.request(method, path, [*headers, bearer])
                assert answer.error is None, (method, path)
                assert answer.status == 400 or path in OPEN_PATHS, (method, path)

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1:8080", "localhost:8080", "localhost", "[::1]:8080", "127.0.0.2", "LOCALHOST"],
    )
    def test_loopback_names_are_accepted(self, open_gateway: InProcess, host: str) -> None:
        assert open_gateway.get("/api/openapi.json", host=host).status == 200

    def test_probes_and_webhooks_accept_any_host_name(self, open_gateway: InProcess) -> None:
        assert open_gateway.get("/healthz", host="10.1.2.3").status == 200
        assert open_gateway.get("/readyz", host="10.1.2.3").status == 503
        assert open_gateway.post("/webhooks/openai", b"{}", host="hook.example").status == 400

    def test_with_a_token_any_host_name_is_accepted(self, secured: InProcess) -> None:
        answer = secured.get("/api/openapi.json", host="batches.example", authorization=BEARER)
        assert answer.status == 200


class TestResponses:
    def test_all_have_security_headers(self, open_gateway: InProcess, secured: InProcess) -> None:
        answers = [
            gateway.request(method, path)
            for gateway in (open_gateway, secured)
            for method, path in [
                *routes(gateway.app),
                ("GET", "/nothing"),
                ("PUT", "/"),
                ("POST", "/"),
            ]
        ]
        answers.append(open_gateway.get("/", host="evil.example"))
        answers.append(open_gateway.get("/static/page.css"))
        assert {200, 303, 400, 401, 403, 404, 405, 503} <= {answer.status for answer in answers}
        for answer in answers:
            assert answer.headers["content-security-policy"] == CSP
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert "cache-control" in answer.headers

    def test_dynamic_responses_are_not_cached(self, open_gateway: InProcess) -> None:
        for path in ("/healthz", "/readyz", "/metrics", "/", "/api/summary", "/nothing"):
            assert open_gateway.get(path).headers["cache-control"] == "no-store", path

    def test_a_bug_is_logged_and_its_traceback_not_shown(self) -> None:
        broken = app()

        async def route() -> None:
            raise RuntimeError("hunter2 in a trace")

        broken.add_api_route("/broken", route)
        with InProcess(broken) as gateway:
            answer = gateway.get("/broken")
        assert answer.status == 500
        assert answer.message == "Internal error; see the gateway's log."
        assert isinstance(answer.error, RuntimeError)
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("path", ["/webhooks/openai", "/login", "/logout"])
    def test_a_client_that_disconnects_causes_no_error(self, secured: InProcess, path: str) -> None:
        form = (b"content-type", b"application/x-www-form-urlencoded")
        headers = [form, (b"cookie", log_in(secured).encode())]
        answer = secured.request("POST", path, headers, [b"token="], breaks_off=True)
        assert (answer.status, answer.error) == (400, None)

    def test_without_redis_it_is_alive_but_not_ready(self, open_gateway: InProcess) -> None:
        assert open_gateway.get("/healthz").status == 200
        answer = open_gateway.get("/readyz")
        assert answer.status == 503
        assert '"redis":"no answer"' in answer.text
        assert "127.0.0.1" not in answer.text


class TestLimits:
    FORM = (b"content-type", b"application/x-www-form-urlencoded")

    def test_an_announced_large_body_is_refused(self, secured: InProcess) -> None:
        announced = (b"content-length", str(MAX_BODY_BYTES + 1).encode())
        answer = secured.request("POST", "/login", [self.FORM, announced], [b"token="])
        assert answer.status == 413

    def test_a_large_body_of_unknown_length_is_refused(self, secured: InProcess) -> None:
        chunks = [b"token=", *[b"x" * 1024] * (MAX_BODY_BYTES // 1024)]
        answer = secured.request("POST", "/login", [self.FORM], chunks)
        assert answer.status == 413
        assert "The body is larger than 65,536 bytes." in answer.text

    def test_a_body_of_the_largest_size_is_accepted(self, secured: InProcess) -> None:
        chunks = [b"token=", b"x" * (MAX_BODY_BYTES - 6)]
        assert secured.request("POST", "/login", [self.FORM], chunks).status == 401

    def test_requests_are_limited_by_client(
        self, open_gateway: InProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now)
        statuses = [open_gateway.get("/login").status for _ in range(REQUESTS.amount + 1)]
        assert statuses == [303] * REQUESTS.amount + [429]
        refused = open_gateway.get("/login")
        assert refused.headers["retry-after"] == "1"
        assert open_gateway.request("GET", "/login", client="127.0.0.2").status == 303
        for path in ("/healthz", "/readyz"):
            assert open_gateway.get(path).status != 429
        assert open_gateway.post("/webhooks/openai").status == 400
        monkeypatch.setattr(time, "time", lambda: now + 2)
        assert open_gateway.get("/login").status == 303
