SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.alerts (
    id text NOT NULL,
    model text NOT NULL,
    state text NOT NULL,
    since timestamp with time zone NOT NULL,
    absent_since timestamp with time zone,
    told json NOT NULL,
    told_at timestamp with time zone,
    acknowledged_by text,
    acknowledged_why text,
    acknowledged_at timestamp with time zone,
    finding json NOT NULL
);
CREATE TABLE public.aliases (
    model text NOT NULL,
    alias text NOT NULL,
    number integer NOT NULL,
    moved_at timestamp with time zone NOT NULL
);
CREATE TABLE public.approvals (
    id text NOT NULL,
    state text NOT NULL,
    act json NOT NULL,
    body bytea NOT NULL,
    at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    decided_by text,
    outcome json
);
CREATE TABLE public.audit_anchors (
    place text NOT NULL,
    sequence integer NOT NULL,
    at timestamp with time zone NOT NULL,
    problem text NOT NULL
);
CREATE TABLE public.audit_chain (
    sequence integer NOT NULL,
    event integer NOT NULL,
    digests json NOT NULL,
    digest text NOT NULL
);
CREATE TABLE public.audit_head (
    "only" integer NOT NULL,
    chain text NOT NULL,
    after_event integer NOT NULL,
    sequence integer NOT NULL,
    digest text NOT NULL
);
CREATE TABLE public.audit_keys (
    id text NOT NULL,
    person text NOT NULL,
    key text NOT NULL
);
CREATE TABLE public.audit_values (
    sequence integer NOT NULL,
    key text NOT NULL,
    sealed text NOT NULL
);
CREATE TABLE public.device_reports (
    device text NOT NULL,
    sequence bigint NOT NULL,
    received_at timestamp with time zone NOT NULL,
    at text NOT NULL,
    event text NOT NULL,
    version text NOT NULL,
    digest text NOT NULL,
    reason text NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    sample json,
    dropped json
);
CREATE TABLE public.device_rollouts (
    id text NOT NULL,
    "group" text NOT NULL,
    plan json NOT NULL,
    state json NOT NULL,
    changes integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    ended_at timestamp with time zone
);
CREATE TABLE public.device_windows (
    version text NOT NULL,
    "group" text NOT NULL,
    day text NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    profile json NOT NULL
);
CREATE TABLE public.devices (
    name text NOT NULL,
    "group" text NOT NULL,
    key text NOT NULL,
    enrolled_at timestamp with time zone NOT NULL,
    enrolled_by text NOT NULL,
    revoked_at timestamp with time zone,
    sequence bigint NOT NULL,
    seen_at timestamp with time zone,
    version text NOT NULL,
    digest text NOT NULL,
    bytes_received bigint NOT NULL,
    stuck_on text NOT NULL,
    stuck_since timestamp with time zone,
    stuck_reason text NOT NULL
);
CREATE TABLE public.endpoints (
    name text NOT NULL,
    follows text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    following json,
    followed integer,
    deleted_at timestamp with time zone
);
CREATE TABLE public.events (
    id integer NOT NULL,
    subject_kind text NOT NULL,
    subject text NOT NULL,
    kind text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    body json NOT NULL
);
CREATE SEQUENCE public.events_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_id_seq OWNED BY public.events.id;
CREATE TABLE public.holds (
    digest text NOT NULL,
    holder text NOT NULL,
    until timestamp with time zone NOT NULL
);
CREATE TABLE public.identity (
    "only" integer NOT NULL,
    id text NOT NULL
);
CREATE TABLE public.jobs (
    id text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    title text NOT NULL,
    input json NOT NULL,
    digest text NOT NULL,
    folder text NOT NULL,
    is_confined boolean NOT NULL,
    by text NOT NULL,
    key text NOT NULL,
    host text NOT NULL,
    schedule text NOT NULL,
    due timestamp with time zone,
    state text NOT NULL,
    attempt integer NOT NULL,
    begun integer NOT NULL,
    progress json NOT NULL,
    log text NOT NULL,
    facts json,
    result json,
    error json,
    stop text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    updated_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    holder text NOT NULL,
    process text NOT NULL,
    fence integer NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
CREATE TABLE public.keys (
    number integer NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    token_sha256 text NOT NULL,
    permissions json NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    revoked_by text NOT NULL
);
CREATE SEQUENCE public.keys_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.keys_number_seq OWNED BY public.keys.number;
CREATE TABLE public.leases (
    name text NOT NULL,
    holder text NOT NULL,
    fence integer NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
CREATE TABLE public.metrics (
    digest text NOT NULL,
    name text NOT NULL,
    value double precision NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.models (
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.notifications (
    id text NOT NULL,
    number integer NOT NULL,
    receiver text NOT NULL,
    at timestamp with time zone NOT NULL,
    body json NOT NULL,
    state text NOT NULL,
    due_at timestamp with time zone NOT NULL,
    attempts integer NOT NULL,
    problem text NOT NULL
);
CREATE TABLE public.objects (
    digest text NOT NULL,
    state text NOT NULL,
    since timestamp with time zone NOT NULL
);
CREATE TABLE public.plans (
    endpoint text NOT NULL,
    number integer NOT NULL,
    content json NOT NULL,
    made_at timestamp with time zone NOT NULL,
    made_by text NOT NULL,
    reason text NOT NULL
);
CREATE TABLE public.quotas (
    counter text NOT NULL,
    day integer NOT NULL,
    reserved bigint NOT NULL,
    short_at timestamp with time zone
);
CREATE TABLE public.rate_costs (
    counter text NOT NULL,
    server text NOT NULL,
    cost_ns bigint NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.releases (
    revision text NOT NULL,
    release text NOT NULL,
    at timestamp with time zone NOT NULL,
    floor text
);
CREATE TABLE public.requests (
    caller text NOT NULL,
    key text NOT NULL,
    digest text NOT NULL,
    at timestamp with time zone NOT NULL,
    status integer,
    headers json,
    body bytea
);
CREATE TABLE public.review_marks (
    model text NOT NULL,
    place text NOT NULL,
    until timestamp with time zone NOT NULL
);
CREATE TABLE public.reviews (
    id text NOT NULL,
    model text NOT NULL,
    version text NOT NULL,
    prediction_id text NOT NULL,
    "row" integer NOT NULL,
    predicted_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    probability double precision NOT NULL,
    state text NOT NULL,
    claimed_by text,
    claimed_until timestamp with time zone,
    truth text,
    answered_at timestamp with time zone
);
CREATE TABLE public.rollout_cohorts (
    rollout text NOT NULL,
    revision integer NOT NULL,
    number integer NOT NULL,
    content json NOT NULL
);
CREATE TABLE public.rollout_counts (
    rollout text NOT NULL,
    source text NOT NULL,
    stage integer NOT NULL,
    content json NOT NULL
);
CREATE TABLE public.rollout_decisions (
    rollout text NOT NULL,
    number integer NOT NULL,
    at timestamp with time zone NOT NULL,
    made_by text NOT NULL,
    before json,
    content json NOT NULL,
    plan_number integer
);
CREATE TABLE public.rollout_intervals (
    rollout text NOT NULL,
    number integer NOT NULL,
    content json NOT NULL,
    log_e double precision
);
CREATE TABLE public.rollouts (
    id text NOT NULL,
    endpoint text NOT NULL,
    content json NOT NULL,
    decisions integer NOT NULL,
    latest json NOT NULL,
    sealed json NOT NULL,
    intervals integer NOT NULL,
    ended_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    reason text NOT NULL
);
CREATE TABLE public.silences (
    id text NOT NULL,
    model text NOT NULL,
    source text NOT NULL,
    alert text NOT NULL,
    by text NOT NULL,
    why text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    until timestamp with time zone NOT NULL
);
CREATE TABLE public.statements (
    id integer NOT NULL,
    content text NOT NULL,
    digest text NOT NULL,
    kind text NOT NULL,
    at timestamp with time zone NOT NULL,
    by text NOT NULL,
    passed boolean,
    body json NOT NULL,
    brought_by text
);
CREATE SEQUENCE public.statements_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.statements_id_seq OWNED BY public.statements.id;
CREATE TABLE public.tags (
    model text NOT NULL,
    number integer NOT NULL,
    key text NOT NULL,
    value text NOT NULL
);
CREATE TABLE public.versions (
    model text NOT NULL,
    number integer NOT NULL,
    digest text NOT NULL,
    pushed_at timestamp with time zone NOT NULL,
    pushed_by text NOT NULL,
    retired_at timestamp with time zone,
    retired_by text,
    retired_reason text,
    deprecation json
);
ALTER TABLE ONLY public.events ALTER COLUMN id SET DEFAULT nextval('public.events_id_seq'::regclass);
ALTER TABLE ONLY public.keys ALTER COLUMN number SET DEFAULT nextval('public.keys_number_seq'::regclass);
ALTER TABLE ONLY public.statements ALTER COLUMN id SET DEFAULT nextval('public.statements_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0015');
INSERT INTO public.alerts VALUES ('9d0c5f1f2a3b', 'late', 'firing', '2026-03-01 12:00:00+00', NULL, '["pager"]', '2026-03-01 12:00:00+00', 'ada', 'rolling back', '2026-03-01 12:00:00+00', '{"source": "health", "kind": "error_share", "model": "late", "severity": "critical", "sentence": "late/1 on one: 30 of 100 requests failed (status 500 or more) in 5 minutes: 30.0%, limit 1.0%", "value": 0.3, "limit": 0.01, "at": "2026-03-01T12:00:00+00:00", "version": "1", "column": "", "place": "one", "evidence": "bascule top"}');
INSERT INTO public.aliases VALUES ('late', 'champion', 1, '2026-03-01 12:00:00+00');
INSERT INTO public.audit_chain VALUES (1, 6, '{"actor": "fe29399809a166d4a49a430e343e9f8cf77491f9fc09de9f19053c20211c74a2", "reason": "31c21805a5f4fd41eaea8286f2a91b8625e0d1ca904cfaed47f4227f5ab006bc", "before": "af9a97739afed3c1ef38c618377a1640de28b23fa350d2e24fee3d190a7a5adc", "after": "1c9282b53fbc319e83424197572dfc8e557df172c79ceab529615e963b0a0f15", "via": "a401b612c5500a779b321abd8ce7be1c3dc56825f6f907e37bd0f2155f5224ea", "key": "52534b4c430f67d8e6a535f0d216ac49b7027e843fd205222c7edff48e88ddda", "address": "7fa3d6eec2cd3b0b495c4bcad157e4e8c547c2281a0f6aa909613fd3a5c00274", "request": "9a50c395f585e903e892f7247395ae315336b356393001bdf9e290439e396b26"}', 'c4db86db2b293e00faf147134b33911ee20738d64f73fd77fe187cec3fd0cfe2');
INSERT INTO public.audit_head VALUES (1, '40b105c371216fcb1b16fe2ec803a4036bed7d0cacd5b1ed7268dbdcf8e48ba2', 5, 1, 'c4db86db2b293e00faf147134b33911ee20738d64f73fd77fe187cec3fd0cfe2');
INSERT INTO public.audit_keys VALUES ('a1f868633d74e319', '', '1945bb930f842ad8a5e0bf09bbd565848bea477c81e7a738780a47438ed96cdc');
INSERT INTO public.audit_keys VALUES ('905803d011e4ae13', 'ada', 'a6638f6f40d32dd3ec121e9dc28276271f93db6fde6efdcbb6ca85faa400fcd3');
INSERT INTO public.audit_values VALUES (1, '905803d011e4ae13', '62H63wwb3IXEc5UgSG5RIzzuVjuDHSX7rJY8AlLJ8Zt0k5/kFL6JwNXjFqHheb+B7NvXhwQFkpMkxbVf6b8juljE29179Nu18h5Fy6vzroH7t2VWAbRHQjEn04HMoXF4EIGlHIF3lP8nzQY7PQBZoBP1tJ0Z/0II0eY1EUYyEGR3IbkTqfl7+l5vo3diqCvCQkx9vhRuwrB1OCZU3hY8gWBaStve/jyjVIArETV7XcHBa1p2v0yYMJvE9oY9Ip7Gz3gTtnmb2eIR2Z96SUnGUI82R3Zi0if0MSzV8Hy5fM9HKbdqVUy2eQSfv8+Yj4frViRHdVnMoo03wQu4ojg3B5EsNIUvkZ9Yrmle8bosWiHt4DVQjIN2bW0ga8sWIXabwIjQOaYXG91iuo0Finf4wYvNUuPooxQBvpeFgSrrlahrt4ejcx/Hw0Q6ve/h1PjINzV7J006aT/s8oeSoFfTsZXDBhACUvDY3Vj/vKpT5OkhfpOGCTndKJk=');
INSERT INTO public.audit_values VALUES (1, 'a1f868633d74e319', '+5xMottzptRkFKgdGW+o+Vgb79y9ExjmTojTCLJMkYTFebMNS8HmvJOrQKjLYvyixJX48tPONn1S+So0dgMxZqXfBvb4ueG39sA6s8pVWYvrF7BxF12d7l5yipjEbsW6uQn85mtWyQaEyo9X12pbr7WmYjbYIeppkNSlR+ps57iZ2VE/dvR9dtDg');
INSERT INTO public.device_reports VALUES ('camera-1', 1, '2026-03-01 12:00:00+00', '1970-01-01T00:00:00+00:00', 'counts', 'late/1', 'sha256:1', '', 100, 1, NULL, NULL);
INSERT INTO public.device_reports VALUES ('camera-1', 2, '2026-03-01 12:00:00+00', '1970-01-01T00:00:00+00:00', 'golden_failed', 'late/2', 'sha256:2', 'its golden check failed', 0, 0, NULL, NULL);
INSERT INTO public.device_rollouts VALUES ('stable-0a1b2c', 'stable', '{"id": "stable-0a1b2c", "group": "stable", "stable": "late/1", "stable_digest": "sha256:1", "candidate": "late/2", "candidate_digest": "sha256:2", "salt": "00000000000000000000000000000000", "phases": [0.01, 0.1, 0.5, 1.0], "hold_s": 86400.0}', '{"status": "running", "phase": 0, "since": "2026-03-01T12:00:00Z", "sentence": "holds: 1 of 1 devices are sick, 0 of the 0 that stay", "looks": [{"phase": 0, "number": 0, "at": "2026-03-01T13:00:00Z", "exposed": 1, "bad": 1, "unknown": 0, "others": 0, "others_bad": 0, "log_e_worse": 0.0, "log_e_safe": null}]}', 1, '2026-03-01 12:00:00+00', 'ada', NULL);
INSERT INTO public.device_windows VALUES ('late/1', 'stable', '2026-03-01', '2026-03-01 12:00:00+00', '{"rows": 0, "profiled_rows": 0, "inputs": {"format": 1, "rows": 0, "columns": []}, "outputs": {"format": 1, "rows": 0, "columns": []}, "format": 1}');
INSERT INTO public.devices VALUES ('camera-1', 'stable', '0123456789ab', '2026-03-01 12:00:00+00', 'ada', NULL, 2, '2026-03-01 12:00:00+00', 'late/1', 'sha256:1', 4096, 'late/2', '2026-03-01 12:00:00+00', 'its golden check failed');
INSERT INTO public.endpoints VALUES ('late', 'late@champion', '2026-03-01 12:00:00+00', '{"strategy": "canary", "guards": ["errors +1 pp"]}', 5, NULL);
INSERT INTO public.events VALUES (1, 'model', 'late', 'pushed', '2026-03-01 12:00:00+00', 'ada', '', '{"number": 1}');
INSERT INTO public.events VALUES (2, 'model', 'late', 'gates_recorded', '2026-03-01 12:00:00+00', 'ci', 'passed 1 of 1', '{"number": 1}');
INSERT INTO public.events VALUES (3, 'model', 'late', 'pushed', '2026-03-01 12:00:00+00', 'ada', '', '{"number": 2}');
INSERT INTO public.events VALUES (4, 'model', 'late', 'gates_recorded', '2026-03-01 12:00:00+00', 'ci', 'failed roc_auc >= 0.8: 0.5 is not >= 0.8', '{"number": 2}');
INSERT INTO public.events VALUES (5, 'model', 'late', 'alias_moved', '2026-03-01 12:00:00+00', 'ada', 'it passed', '{"number": 1, "alias": "champion", "to_number": 1}');
INSERT INTO public.events VALUES (6, 'ledger', 'late', 'deletion_requested', '2026-03-01 12:00:00+00', 'ada', 'asked', '{"where": "customer_id = ?"}');
INSERT INTO public.holds VALUES ('sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441', 'server here', '2026-03-01 12:00:00+00');
INSERT INTO public.identity VALUES (1, '0123456789abcdef0123456789abcdef');
INSERT INTO public.jobs VALUES ('00aa11bb22cc33dd44ee55ff', 'batch', '6f01a2b3c4d5e6f7', 'scoring in.parquet', '{"model": "late/1", "from": "in.parquet", "to": "scored/"}', 'sha256:00', '/data', false, 'ada', '', 'one', '', NULL, 'running', 1, 1, '{"done": 200, "of": 400, "unit": "rows", "model": "late/1", "source": "in.parquet", "sink": "scored/", "rows": 200, "chunks": 2, "chunks_done": 1}', '2026-03-01 12:00:00,000 INFO 2 of 2 chunks to score
', '{"run": "6f01a2b3c4d5e6f7", "model": "late/1", "digest": "sha256:e7", "source": "in.parquet", "sink": "scored/", "identity": {}, "chunks": ["a", "b"]}', NULL, NULL, '', '2026-03-01 12:00:00+00', '2026-03-01 12:00:00+00', '2026-03-01 12:00:00+00', NULL, 'one:17', 'boot/pid:[1] 17 100', 1, '2026-03-01 12:00:00+00');
INSERT INTO public.keys VALUES (1, '0123456789ab', 'scoring', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '["infer:late", "metrics:*"]', '2026-03-01 12:00:00+00', 'ada', '2027-03-01 12:00:00+00', NULL, '');
INSERT INTO public.keys VALUES (2, 'ba9876543210', 'old', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', '["read:*"]', '2026-03-01 12:00:00+00', 'ada', NULL, '2026-03-01 12:00:00+00', 'bob');
INSERT INTO public.leases VALUES ('controller', 'host-1 4711', 3, '2026-03-01 12:00:00+00');
INSERT INTO public.metrics VALUES ('sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441', 'roc_auc', 0.85, '2026-03-01 12:00:00+00');
INSERT INTO public.models VALUES ('late', '2026-03-01 12:00:00+00');
INSERT INTO public.notifications VALUES ('00112233445566778899aabb', 1, 'pager', '2026-03-01 12:00:00+00', '{"id": "00112233445566778899aabb", "receiver": "pager", "kind": "firing", "model": "late", "at": "2026-03-01T12:00:00+00:00", "alerts": []}', 'sent', '2026-03-01 12:00:00+00', 1, '');
INSERT INTO public.objects VALUES ('sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441', 'kept', '2026-03-01 12:00:00+00');
INSERT INTO public.plans VALUES ('late', 1, '{"schema": 1, "endpoint": "late", "number": 1, "arms": [{"name": "current", "version": "late/1", "share_percent": 100.0}], "shadow": null, "sticky_header": "bascule-sticky", "sticky_field": "", "fallback": "", "slower_than_s": [], "rollout": ""}', '2026-03-01 12:00:00+00', 'ada', 'what was served');
INSERT INTO public.plans VALUES ('late', 2, '{"schema": 1, "endpoint": "late", "number": 2, "arms": [{"name": "current", "version": "late/1", "share_percent": 95.0}, {"name": "candidate", "version": "late/2", "share_percent": 5.0}], "shadow": {"version": "late/2", "share_percent": 10.0, "tolerance": 0.001}, "sticky_header": "bascule-sticky", "sticky_field": "", "fallback": "late/1", "slower_than_s": [0.05], "rollout": ""}', '2026-03-01 12:00:00+00', 'ada', 'a canary');
INSERT INTO public.releases VALUES ('0001', '0.1.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0002', '0.1.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0004', '0.1.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0005', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0006', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0007', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0008', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0009', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0010', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0012', '0.2.0', '2026-03-01 12:00:00+00', NULL);
INSERT INTO public.releases VALUES ('0013', '0.2.0', '2026-03-01 12:00:00+00', '0012');
INSERT INTO public.releases VALUES ('0014', '0.2.0', '2026-03-01 12:00:00+00', '0012');
INSERT INTO public.releases VALUES ('0015', '0.2.0', '2026-03-01 12:00:00+00', '0012');
INSERT INTO public.requests VALUES ('0123456789ab', '3f1c', 'sha256:00', '2026-03-01 12:00:00+00', 201, '[["etag", "1"]]', '\x7b7d');
INSERT INTO public.rollout_cohorts VALUES ('late-00aa11', 1, 0, '{"number": 0, "stage": 0, "ended_s": 5.0, "current": {"predictions": 300, "unknown": 10.0, "losses": [30.0], "squares": [30.0]}, "candidate": {"predictions": 20, "unknown": 2.0, "losses": [1.0], "squares": [1.0]}}');
INSERT INTO public.rollout_counts VALUES ('late-00aa11', 'one/2', 0, '{"number": 0, "stage": 0, "current": {"requests": 950, "errors": 10, "durations": [40, 900, 41, 40]}, "candidate": {"requests": 50, "errors": 30, "durations": [40, 20]}}');
INSERT INTO public.rollout_decisions VALUES ('late-00aa11', 1, '2026-03-01 12:00:00+00', 'one:1', 'null', '{"state": {"type": "running", "stage": 0, "since": "2026-03-01T12:00:00Z", "shares": []}, "shares": {"candidate_percent": 5.0, "shadow_percent": 0.0}, "sentence": "late/2 begins with 5 % of the requests of late (canary, against late/1; guards: errors +1 pp, latency +20 %, answers +20 pp, accuracy -2 pp)", "log_e": {}, "intervals": 0, "revision": 0, "failures": [], "trouble": "", "held_by": ""}', 2);
INSERT INTO public.rollout_decisions VALUES ('late-00aa11', 2, '2026-03-01 12:00:00+00', 'one:1', '{"type": "running", "stage": 0, "since": "2026-03-01T12:00:00Z", "shares": []}', '{"state": {"type": "aborted", "at": "2026-03-01T12:00:00Z"}, "shares": {"candidate_percent": 0.0, "shadow_percent": 0.0}, "sentence": "rolled back to late/1: 60.00% of the answers of late/2 failed, and 1.05% of late/1 (allowed errors +1 pp), a difference of 37.02% at least; late/2 is slower than late/1 by more than latency +20 % allows: at p25, 100.00% of its answers are over the limit, and 42.55% may be; evidence of over 10^6 to 1 against 20 to 1 needed; 50 of 1,000 requests saw late/2", "log_e": {"errors +1 pp": 61.46089566902327, "latency +20 %": 10.34877752293734, "answers +20 pp": -20.0, "accuracy -2 pp": 0.0, "all": 60.074601307903386}, "intervals": 1, "revision": 1, "failures": [], "trouble": "", "held_by": ""}', 3);
INSERT INTO public.rollout_intervals VALUES ('late-00aa11', 0, '{"number": 0, "stage": 0, "current": {"requests": 950, "errors": 10, "slow": [[0, 940, 400, 100, 40]], "answers": {"looked": 900, "compared": 900, "changes": 500, "events": [300, 20]}}, "candidate": {"requests": 50, "errors": 30, "slow": [[0, 20, 20, 5, 2]], "answers": {"looked": 50, "compared": 50, "changes": 20, "events": [10, 2]}}}', 60.074601307903386);
INSERT INTO public.rollouts VALUES ('late-00aa11', 'late', '{"id": "late-00aa11", "started_at": "2026-03-01T12:00:00Z", "endpoint": "late", "candidate": "late/2", "current": "late/1", "strategy": "canary", "guards": [{"name": "errors", "margin": 0.01, "unit": "pp"}, {"name": "latency", "margin": 0.2, "unit": "%"}, {"name": "answers", "margin": 0.2, "unit": "pp"}, {"name": "accuracy", "margin": 0.02, "unit": "pp"}], "steps_percent": [5.0, 25.0, 50.0, 100.0], "step_s": 300.0, "max_s": 604800.0, "min_requests": 100, "alpha": 0.05, "beta": 0.05, "bake_s": 0.0, "holdback_percent": 5.0, "needs_approval": false, "floor": 0.05, "outcomes_sample": 0.5, "load_tries": 7, "allow_answers": false}', 2, '{"state": {"type": "aborted", "at": "2026-03-01T12:00:00Z"}, "shares": {"candidate_percent": 0.0, "shadow_percent": 0.0}, "sentence": "rolled back to late/1: 60.00% of the answers of late/2 failed, and 1.05% of late/1 (allowed errors +1 pp), a difference of 37.02% at least; late/2 is slower than late/1 by more than latency +20 % allows: at p25, 100.00% of its answers are over the limit, and 42.55% may be; evidence of over 10^6 to 1 against 20 to 1 needed; 50 of 1,000 requests saw late/2", "log_e": {"errors +1 pp": 61.46089566902327, "latency +20 %": 10.34877752293734, "answers +20 pp": -20.0, "accuracy -2 pp": 0.0, "all": 60.074601307903386}, "intervals": 1, "revision": 1, "failures": [], "trouble": "", "held_by": ""}', '{"one/2": {"number": 0, "stage": 0, "current": {"requests": 950, "errors": 10, "durations": [40, 900, 41, 40]}, "candidate": {"requests": 50, "errors": 30, "durations": [40, 20]}}}', 1, '2026-03-01 12:00:00+00', '2026-03-01 12:00:00+00', 'ada', 'retrained');
INSERT INTO public.silences VALUES ('0123456789ab', 'late*', '', '', 'ada', 'planned', '2026-03-01 12:00:00+00', '2026-03-02 12:00:00+00');
INSERT INTO public.statements VALUES (1, 'sha256:4dc32c26e4f00d67f80ef88985c1c1e46e13390f05634b31dfa90ca76753fd7e', 'sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441', 'gates', '2026-03-01 12:00:00+00', 'ci', true, '{"passed": true, "results": [{"criterion": "roc_auc >= 0.8", "passed": true, "reason": "0.5 is not >= 0.8"}]}', NULL);
INSERT INTO public.statements VALUES (2, 'sha256:fe4ea5f3394722ac4ec66870dec38b4c218ab3fbfb623e675075eb7d8ac28f4f', 'sha256:8439fbbae02db7f34e24a2e10093b487a939babb6e5e9465e7eaa30c62b84d37', 'gates', '2026-03-01 12:00:00+00', 'ci', false, '{"passed": false, "results": [{"criterion": "roc_auc >= 0.8", "passed": false, "reason": "0.5 is not >= 0.8"}]}', NULL);
INSERT INTO public.tags VALUES ('late', 1, 'team', 'risk');
INSERT INTO public.versions VALUES ('late', 1, 'sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441', '2026-03-01 12:00:00+00', 'ada', NULL, NULL, NULL, NULL);
INSERT INTO public.versions VALUES ('late', 2, 'sha256:8439fbbae02db7f34e24a2e10093b487a939babb6e5e9465e7eaa30c62b84d37', '2026-03-01 12:00:00+00', 'ada', NULL, NULL, NULL, '{"at": "2026-03-01T12:00:00+00:00", "by": "ada", "reason": "one is better", "sunset": "2027-03-01T00:00:00+00:00", "successor": "late/1"}');
SELECT pg_catalog.setval('public.events_id_seq', 6, true);
SELECT pg_catalog.setval('public.keys_number_seq', 2, true);
SELECT pg_catalog.setval('public.statements_id_seq', 2, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.approvals
    ADD CONSTRAINT approvals_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_anchors
    ADD CONSTRAINT audit_anchors_pkey PRIMARY KEY (place);
ALTER TABLE ONLY public.audit_chain
    ADD CONSTRAINT audit_chain_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY ("only");
ALTER TABLE ONLY public.audit_keys
    ADD CONSTRAINT audit_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_values
    ADD CONSTRAINT audit_values_pkey PRIMARY KEY (sequence, key);
ALTER TABLE ONLY public.device_reports
    ADD CONSTRAINT device_reports_pkey PRIMARY KEY (device, sequence);
ALTER TABLE ONLY public.device_rollouts
    ADD CONSTRAINT device_rollouts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.device_windows
    ADD CONSTRAINT device_windows_pkey PRIMARY KEY (version, "group", day);
ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT pk_alerts PRIMARY KEY (id);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT pk_aliases PRIMARY KEY (model, alias);
ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT pk_endpoints PRIMARY KEY (name);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (id);
ALTER TABLE ONLY public.holds
    ADD CONSTRAINT pk_holds PRIMARY KEY (digest, holder);
ALTER TABLE ONLY public.identity
    ADD CONSTRAINT pk_identity PRIMARY KEY ("only");
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT pk_jobs PRIMARY KEY (id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT pk_keys PRIMARY KEY (number);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT pk_leases PRIMARY KEY (name);
ALTER TABLE ONLY public.metrics
    ADD CONSTRAINT pk_metrics PRIMARY KEY (digest, name);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT pk_models PRIMARY KEY (name);
ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT pk_notifications PRIMARY KEY (id);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT pk_objects PRIMARY KEY (digest);
ALTER TABLE ONLY public.plans
    ADD CONSTRAINT pk_plans PRIMARY KEY (endpoint, number);
ALTER TABLE ONLY public.quotas
    ADD CONSTRAINT pk_quotas PRIMARY KEY (counter, day);
ALTER TABLE ONLY public.rate_costs
    ADD CONSTRAINT pk_rate_costs PRIMARY KEY (counter, server);
ALTER TABLE ONLY public.releases
    ADD CONSTRAINT pk_releases PRIMARY KEY (revision);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT pk_requests PRIMARY KEY (caller, key);
ALTER TABLE ONLY public.review_marks
    ADD CONSTRAINT pk_review_marks PRIMARY KEY (model, place);
ALTER TABLE ONLY public.reviews
    ADD CONSTRAINT pk_reviews PRIMARY KEY (id);
ALTER TABLE ONLY public.rollout_cohorts
    ADD CONSTRAINT pk_rollout_cohorts PRIMARY KEY (rollout, revision, number);
ALTER TABLE ONLY public.rollout_counts
    ADD CONSTRAINT pk_rollout_counts PRIMARY KEY (rollout, source);
ALTER TABLE ONLY public.rollout_decisions
    ADD CONSTRAINT pk_rollout_decisions PRIMARY KEY (rollout, number);
ALTER TABLE ONLY public.rollout_intervals
    ADD CONSTRAINT pk_rollout_intervals PRIMARY KEY (rollout, number);
ALTER TABLE ONLY public.rollouts
    ADD CONSTRAINT pk_rollouts PRIMARY KEY (id);
ALTER TABLE ONLY public.silences
    ADD CONSTRAINT pk_silences PRIMARY KEY (id);
ALTER TABLE ONLY public.statements
    ADD CONSTRAINT pk_statements PRIMARY KEY (id);
ALTER TABLE ONLY public.tags
    ADD CONSTRAINT pk_tags PRIMARY KEY (model, number, key);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT pk_versions PRIMARY KEY (model, number);
ALTER TABLE ONLY public.audit_chain
    ADD CONSTRAINT uq_audit_chain_event UNIQUE (event);
ALTER TABLE ONLY public.audit_keys
    ADD CONSTRAINT uq_audit_keys_person UNIQUE (person);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT uq_keys_id UNIQUE (id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT uq_keys_token_sha256 UNIQUE (token_sha256);
ALTER TABLE ONLY public.statements
    ADD CONSTRAINT uq_statements_content UNIQUE (content);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT uq_versions_model_digest UNIQUE (model, digest);
CREATE INDEX ix_alerts_model ON public.alerts USING btree (model);
CREATE INDEX ix_alerts_state ON public.alerts USING btree (state);
CREATE INDEX ix_approvals_at ON public.approvals USING btree (at);
CREATE INDEX ix_audit_values_key ON public.audit_values USING btree (key);
CREATE INDEX ix_device_reports_received_at ON public.device_reports USING btree (received_at);
CREATE INDEX ix_device_rollouts_group ON public.device_rollouts USING btree ("group");
CREATE INDEX ix_devices_group ON public.devices USING btree ("group");
CREATE INDEX ix_events_actor_id ON public.events USING btree (actor, id);
CREATE INDEX ix_events_at ON public.events USING btree (at);
CREATE INDEX ix_events_subject_id ON public.events USING btree (subject, id);
CREATE INDEX ix_events_subject_kind_subject_id ON public.events USING btree (subject_kind, subject, id);
CREATE INDEX ix_jobs_kind_subject_created_at ON public.jobs USING btree (kind, subject, created_at);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_updated_at ON public.jobs USING btree (updated_at);
CREATE INDEX ix_keys_name ON public.keys USING btree (name);
CREATE INDEX ix_metrics_name_value ON public.metrics USING btree (name, value);
CREATE INDEX ix_notifications_number ON public.notifications USING btree (number);
CREATE INDEX ix_notifications_state_due_at ON public.notifications USING btree (state, due_at);
CREATE INDEX ix_quotas_day ON public.quotas USING btree (day);
CREATE INDEX ix_rate_costs_at ON public.rate_costs USING btree (at);
CREATE INDEX ix_requests_at ON public.requests USING btree (at);
CREATE INDEX ix_reviews_model_state_predicted_at ON public.reviews USING btree (model, state, predicted_at);
CREATE INDEX ix_rollouts_endpoint ON public.rollouts USING btree (endpoint);
CREATE INDEX ix_silences_until ON public.silences USING btree (until);
CREATE INDEX ix_statements_digest ON public.statements USING btree (digest);
CREATE INDEX ix_tags_key_value ON public.tags USING btree (key, value);
CREATE INDEX ix_versions_digest ON public.versions USING btree (digest);
CREATE INDEX ix_versions_pushed_at ON public.versions USING btree (pushed_at);
ALTER TABLE ONLY public.audit_chain
    ADD CONSTRAINT audit_chain_event_fkey FOREIGN KEY (event) REFERENCES public.events(id);
ALTER TABLE ONLY public.device_reports
    ADD CONSTRAINT device_reports_device_fkey FOREIGN KEY (device) REFERENCES public.devices(name);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT fk_aliases_model FOREIGN KEY (model, number) REFERENCES public.versions(model, number);
ALTER TABLE ONLY public.plans
    ADD CONSTRAINT fk_plans_endpoint_endpoints FOREIGN KEY (endpoint) REFERENCES public.endpoints(name);
ALTER TABLE ONLY public.rollout_cohorts
    ADD CONSTRAINT fk_rollout_cohorts_rollout_rollouts FOREIGN KEY (rollout) REFERENCES public.rollouts(id);
ALTER TABLE ONLY public.rollout_counts
    ADD CONSTRAINT fk_rollout_counts_rollout_rollouts FOREIGN KEY (rollout) REFERENCES public.rollouts(id);
ALTER TABLE ONLY public.rollout_decisions
    ADD CONSTRAINT fk_rollout_decisions_rollout_rollouts FOREIGN KEY (rollout) REFERENCES public.rollouts(id);
ALTER TABLE ONLY public.rollout_intervals
    ADD CONSTRAINT fk_rollout_intervals_rollout_rollouts FOREIGN KEY (rollout) REFERENCES public.rollouts(id);
ALTER TABLE ONLY public.tags
    ADD CONSTRAINT fk_tags_model FOREIGN KEY (model, number) REFERENCES public.versions(model, number);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT fk_versions_model FOREIGN KEY (model) REFERENCES public.models(name);
