BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0015');
CREATE TABLE alerts (
	id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	state TEXT NOT NULL, 
	since DATETIME NOT NULL, 
	absent_since DATETIME, 
	told JSON NOT NULL, 
	told_at DATETIME, 
	acknowledged_by TEXT, 
	acknowledged_why TEXT, 
	acknowledged_at DATETIME, 
	finding JSON NOT NULL, 
	CONSTRAINT pk_alerts PRIMARY KEY (id)
);
INSERT INTO "alerts" VALUES('9d0c5f1f2a3b','late','firing','2026-03-01 12:00:00.000000',NULL,'["pager"]','2026-03-01 12:00:00.000000','ada','rolling back','2026-03-01 12:00:00.000000','{"source": "health", "kind": "error_share", "model": "late", "severity": "critical", "sentence": "late/1 on one: 30 of 100 requests failed (status 500 or more) in 5 minutes: 30.0%, limit 1.0%", "value": 0.3, "limit": 0.01, "at": "2026-03-01T12:00:00+00:00", "version": "1", "column": "", "place": "one", "evidence": "bascule top"}');
CREATE TABLE aliases (
	model TEXT NOT NULL, 
	alias TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	moved_at DATETIME NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (model, alias), 
	CONSTRAINT fk_aliases_model FOREIGN KEY(model, number) REFERENCES versions (model, number)
);
INSERT INTO "aliases" VALUES('late','champion',1,'2026-03-01 12:00:00.000000');
CREATE TABLE approvals (
	id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	act JSON NOT NULL, 
	body BLOB NOT NULL, 
	at DATETIME NOT NULL, 
	ends_at DATETIME NOT NULL, 
	decided_by TEXT, 
	outcome JSON, 
	PRIMARY KEY (id)
);
CREATE TABLE audit_anchors (
	place TEXT NOT NULL, 
	sequence INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	problem TEXT NOT NULL, 
	PRIMARY KEY (place)
);
CREATE TABLE audit_chain (
	sequence INTEGER NOT NULL, 
	event INTEGER NOT NULL, 
	digests JSON NOT NULL, 
	digest TEXT NOT NULL, 
	PRIMARY KEY (sequence), 
	CONSTRAINT uq_audit_chain_event UNIQUE (event), 
	FOREIGN KEY(event) REFERENCES events (id)
);
INSERT INTO "audit_chain" VALUES(1,6,'{"actor": "fe29399809a166d4a49a430e343e9f8cf77491f9fc09de9f19053c20211c74a2", "reason": "31c21805a5f4fd41eaea8286f2a91b8625e0d1ca904cfaed47f4227f5ab006bc", "before": "af9a97739afed3c1ef38c618377a1640de28b23fa350d2e24fee3d190a7a5adc", "after": "1c9282b53fbc319e83424197572dfc8e557df172c79ceab529615e963b0a0f15", "via": "a401b612c5500a779b321abd8ce7be1c3dc56825f6f907e37bd0f2155f5224ea", "key": "52534b4c430f67d8e6a535f0d216ac49b7027e843fd205222c7edff48e88ddda", "address": "7fa3d6eec2cd3b0b495c4bcad157e4e8c547c2281a0f6aa909613fd3a5c00274", "request": "9a50c395f585e903e892f7247395ae315336b356393001bdf9e290439e396b26"}','c4db86db2b293e00faf147134b33911ee20738d64f73fd77fe187cec3fd0cfe2');
CREATE TABLE audit_head (
	only INTEGER NOT NULL, 
	chain TEXT NOT NULL, 
	after_event INTEGER NOT NULL, 
	sequence INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	PRIMARY KEY (only)
);
INSERT INTO "audit_head" VALUES(1,'40b105c371216fcb1b16fe2ec803a4036bed7d0cacd5b1ed7268dbdcf8e48ba2',5,1,'c4db86db2b293e00faf147134b33911ee20738d64f73fd77fe187cec3fd0cfe2');
CREATE TABLE audit_keys (
	id TEXT NOT NULL, 
	person TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_audit_keys_person UNIQUE (person)
);
INSERT INTO "audit_keys" VALUES('a1f868633d74e319','','1945bb930f842ad8a5e0bf09bbd565848bea477c81e7a738780a47438ed96cdc');
INSERT INTO "audit_keys" VALUES('905803d011e4ae13','ada','a6638f6f40d32dd3ec121e9dc28276271f93db6fde6efdcbb6ca85faa400fcd3');
CREATE TABLE audit_values (
	sequence INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	sealed TEXT NOT NULL, 
	PRIMARY KEY (sequence, "key")
);
INSERT INTO "audit_values" VALUES(1,'905803d011e4ae13','62H63wwb3IXEc5UgSG5RIzzuVjuDHSX7rJY8AlLJ8Zt0k5/kFL6JwNXjFqHheb+B7NvXhwQFkpMkxbVf6b8juljE29179Nu18h5Fy6vzroH7t2VWAbRHQjEn04HMoXF4EIGlHIF3lP8nzQY7PQBZoBP1tJ0Z/0II0eY1EUYyEGR3IbkTqfl7+l5vo3diqCvCQkx9vhRuwrB1OCZU3hY8gWBaStve/jyjVIArETV7XcHBa1p2v0yYMJvE9oY9Ip7Gz3gTtnmb2eIR2Z96SUnGUI82R3Zi0if0MSzV8Hy5fM9HKbdqVUy2eQSfv8+Yj4frViRHdVnMoo03wQu4ojg3B5EsNIUvkZ9Yrmle8bosWiHt4DVQjIN2bW0ga8sWIXabwIjQOaYXG91iuo0Finf4wYvNUuPooxQBvpeFgSrrlahrt4ejcx/Hw0Q6ve/h1PjINzV7J006aT/s8oeSoFfTsZXDBhACUvDY3Vj/vKpT5OkhfpOGCTndKJk=');
INSERT INTO "audit_values" VALUES(1,'a1f868633d74e319','+5xMottzptRkFKgdGW+o+Vgb79y9ExjmTojTCLJMkYTFebMNS8HmvJOrQKjLYvyixJX48tPONn1S+So0dgMxZqXfBvb4ueG39sA6s8pVWYvrF7BxF12d7l5yipjEbsW6uQn85mtWyQaEyo9X12pbr7WmYjbYIeppkNSlR+ps57iZ2VE/dvR9dtDg');
CREATE TABLE device_reports (
	device TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	received_at DATETIME NOT NULL, 
	at TEXT NOT NULL, 
	event TEXT NOT NULL, 
	version TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	requests BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	sample JSON, 
	dropped JSON, 
	PRIMARY KEY (device, sequence), 
	FOREIGN KEY(device) REFERENCES devices (name)
);
INSERT INTO "device_reports" VALUES('camera-1',1,'2026-03-01 12:00:00.000000','1970-01-01T00:00:00+00:00','counts','late/1','sha256:1','',100,1,NULL,NULL);
INSERT INTO "device_reports" VALUES('camera-1',2,'2026-03-01 12:00:00.000000','1970-01-01T00:00:00+00:00','golden_failed','late/2','sha256:2','its golden check failed',0,0,NULL,NULL);
CREATE TABLE device_rollouts (
	id TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	"plan" JSON NOT NULL, 
	state JSON NOT NULL, 
	changes INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	ended_at DATETIME, 
	PRIMARY KEY (id)
);
INSERT INTO "device_rollouts" VALUES('stable-0a1b2c','stable','{"id": "stable-0a1b2c", "group": "stable", "stable": "late/1", "stable_digest": "sha256:1", "candidate": "late/2", "candidate_digest": "sha256:2", "salt": "00000000000000000000000000000000", "phases": [0.01, 0.1, 0.5, 1.0], "hold_s": 86400.0}','{"status": "running", "phase": 0, "since": "2026-03-01T12:00:00Z", "sentence": "holds: 1 of 1 devices are sick, 0 of the 0 that stay", "looks": [{"phase": 0, "number": 0, "at": "2026-03-01T13:00:00Z", "exposed": 1, "bad": 1, "unknown": 0, "others": 0, "others_bad": 0, "log_e_worse": 0.0, "log_e_safe": null}]}',1,'2026-03-01 12:00:00.000000','ada',NULL);
CREATE TABLE device_windows (
	version TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	day TEXT NOT NULL, 
	changed_at DATETIME NOT NULL, 
	profile JSON NOT NULL, 
	PRIMARY KEY (version, "group", day)
);
INSERT INTO "device_windows" VALUES('late/1','stable','2026-03-01','2026-03-01 12:00:00.000000','{"rows": 0, "profiled_rows": 0, "inputs": {"format": 1, "rows": 0, "columns": []}, "outputs": {"format": 1, "rows": 0, "columns": []}, "format": 1}');
CREATE TABLE devices (
	name TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	enrolled_at DATETIME NOT NULL, 
	enrolled_by TEXT NOT NULL, 
	revoked_at DATETIME, 
	sequence BIGINT NOT NULL, 
	seen_at DATETIME, 
	version TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	bytes_received BIGINT NOT NULL, 
	stuck_on TEXT NOT NULL, 
	stuck_since DATETIME, 
	stuck_reason TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "devices" VALUES('camera-1','stable','0123456789ab','2026-03-01 12:00:00.000000','ada',NULL,2,'2026-03-01 12:00:00.000000','late/1','sha256:1',4096,'late/2','2026-03-01 12:00:00.000000','its golden check failed');
CREATE TABLE endpoints (
	name TEXT NOT NULL, 
	follows TEXT NOT NULL, 
	created_at DATETIME NOT NULL, following JSON, followed INTEGER, deleted_at DATETIME, 
	CONSTRAINT pk_endpoints PRIMARY KEY (name)
);
INSERT INTO "endpoints" VALUES('late','late@champion','2026-03-01 12:00:00.000000','{"strategy": "canary", "guards": ["errors +1 pp"]}',5,NULL);
CREATE TABLE events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	subject_kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	at DATETIME NOT NULL, 
	actor TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	body JSON NOT NULL
);
INSERT INTO "events" VALUES(1,'model','late','pushed','2026-03-01 12:00:00.000000','ada','','{"number": 1}');
INSERT INTO "events" VALUES(2,'model','late','gates_recorded','2026-03-01 12:00:00.000000','ci','passed 1 of 1','{"number": 1}');
INSERT INTO "events" VALUES(3,'model','late','pushed','2026-03-01 12:00:00.000000','ada','','{"number": 2}');
INSERT INTO "events" VALUES(4,'model','late','gates_recorded','2026-03-01 12:00:00.000000','ci','failed roc_auc >= 0.8: 0.5 is not >= 0.8','{"number": 2}');
INSERT INTO "events" VALUES(5,'model','late','alias_moved','2026-03-01 12:00:00.000000','ada','it passed','{"number": 1, "alias": "champion", "to_number": 1}');
INSERT INTO "events" VALUES(6,'ledger','late','deletion_requested','2026-03-01 12:00:00.000000','ada','asked','{"where": "customer_id = ?"}');
CREATE TABLE holds (
	digest TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	until DATETIME NOT NULL, 
	CONSTRAINT pk_holds PRIMARY KEY (digest, holder)
);
INSERT INTO "holds" VALUES('sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441','server here','2026-03-01 12:00:00.000000');
CREATE TABLE identity (
	only INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	CONSTRAINT pk_identity PRIMARY KEY (only)
);
INSERT INTO "identity" VALUES(1,'0123456789abcdef0123456789abcdef');
CREATE TABLE jobs (
	id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	title TEXT NOT NULL, 
	input JSON NOT NULL, 
	digest TEXT NOT NULL, 
	folder TEXT NOT NULL, 
	is_confined BOOLEAN NOT NULL, 
	"by" TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	host TEXT NOT NULL, 
	schedule TEXT NOT NULL, 
	due DATETIME, 
	state TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	begun INTEGER NOT NULL, 
	progress JSON NOT NULL, 
	log TEXT NOT NULL, 
	facts JSON, 
	result JSON, 
	error JSON, 
	stop TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	updated_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	holder TEXT NOT NULL, 
	process TEXT NOT NULL, 
	fence INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (id)
);
INSERT INTO "jobs" VALUES('00aa11bb22cc33dd44ee55ff','batch','6f01a2b3c4d5e6f7','scoring in.parquet','{"model": "late/1", "from": "in.parquet", "to": "scored/"}','sha256:00','/data',0,'ada','','one','',NULL,'running',1,1,'{"done": 200, "of": 400, "unit": "rows", "model": "late/1", "source": "in.parquet", "sink": "scored/", "rows": 200, "chunks": 2, "chunks_done": 1}','2026-03-01 12:00:00,000 INFO 2 of 2 chunks to score
','{"run": "6f01a2b3c4d5e6f7", "model": "late/1", "digest": "sha256:e7", "source": "in.parquet", "sink": "scored/", "identity": {}, "chunks": ["a", "b"]}',NULL,NULL,'','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,'one:17','boot/pid:[1] 17 100',1,'2026-03-01 12:00:00.000000');
CREATE TABLE keys (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	token_sha256 TEXT NOT NULL, 
	permissions JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	revoked_by TEXT NOT NULL, 
	CONSTRAINT uq_keys_id UNIQUE (id), 
	CONSTRAINT uq_keys_token_sha256 UNIQUE (token_sha256)
);
INSERT INTO "keys" VALUES(1,'0123456789ab','scoring','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','["infer:late", "metrics:*"]','2026-03-01 12:00:00.000000','ada','2027-03-01 12:00:00.000000',NULL,'');
INSERT INTO "keys" VALUES(2,'ba9876543210','old','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','["read:*"]','2026-03-01 12:00:00.000000','ada',NULL,'2026-03-01 12:00:00.000000','bob');
CREATE TABLE leases (
	name TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	fence INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('controller','host-1 4711',3,'2026-03-01 12:00:00.000000');
CREATE TABLE metrics (
	digest TEXT NOT NULL, 
	name TEXT NOT NULL, 
	value DOUBLE NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (digest, name)
);
INSERT INTO "metrics" VALUES('sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441','roc_auc',0.85,'2026-03-01 12:00:00.000000');
CREATE TABLE models (
	name TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (name)
);
INSERT INTO "models" VALUES('late','2026-03-01 12:00:00.000000');
CREATE TABLE notifications (
	id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	receiver TEXT NOT NULL, 
	at DATETIME NOT NULL, 
	body JSON NOT NULL, 
	state TEXT NOT NULL, 
	due_at DATETIME NOT NULL, 
	attempts INTEGER NOT NULL, 
	problem TEXT NOT NULL, 
	CONSTRAINT pk_notifications PRIMARY KEY (id)
);
INSERT INTO "notifications" VALUES('00112233445566778899aabb',1,'pager','2026-03-01 12:00:00.000000','{"id": "00112233445566778899aabb", "receiver": "pager", "kind": "firing", "model": "late", "at": "2026-03-01T12:00:00+00:00", "alerts": []}','sent','2026-03-01 12:00:00.000000',1,'');
CREATE TABLE objects (
	digest TEXT NOT NULL, 
	state TEXT NOT NULL, 
	since DATETIME NOT NULL, 
	CONSTRAINT pk_objects PRIMARY KEY (digest)
);
INSERT INTO "objects" VALUES('sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441','kept','2026-03-01 12:00:00.000000');
CREATE TABLE plans (
	endpoint TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	content JSON NOT NULL, 
	made_at DATETIME NOT NULL, 
	made_by TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	CONSTRAINT pk_plans PRIMARY KEY (endpoint, number), 
	CONSTRAINT fk_plans_endpoint_endpoints FOREIGN KEY(endpoint) REFERENCES endpoints (name)
);
INSERT INTO "plans" VALUES('late',1,'{"schema": 1, "endpoint": "late", "number": 1, "arms": [{"name": "current", "version": "late/1", "share_percent": 100.0}], "shadow": null, "sticky_header": "bascule-sticky", "sticky_field": "", "fallback": "", "slower_than_s": [], "rollout": ""}','2026-03-01 12:00:00.000000','ada','what was served');
INSERT INTO "plans" VALUES('late',2,'{"schema": 1, "endpoint": "late", "number": 2, "arms": [{"name": "current", "version": "late/1", "share_percent": 95.0}, {"name": "candidate", "version": "late/2", "share_percent": 5.0}], "shadow": {"version": "late/2", "share_percent": 10.0, "tolerance": 0.001}, "sticky_header": "bascule-sticky", "sticky_field": "", "fallback": "late/1", "slower_than_s": [0.05], "rollout": ""}','2026-03-01 12:00:00.000000','ada','a canary');
CREATE TABLE quotas (
	counter TEXT NOT NULL, 
	day INTEGER NOT NULL, 
	reserved BIGINT NOT NULL, 
	short_at DATETIME, 
	CONSTRAINT pk_quotas PRIMARY KEY (counter, day)
);
CREATE TABLE rate_costs (
	counter TEXT NOT NULL, 
	server TEXT NOT NULL, 
	cost_ns BIGINT NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_rate_costs PRIMARY KEY (counter, server)
);
CREATE TABLE releases (
	revision TEXT NOT NULL, 
	release TEXT NOT NULL, 
	at DATETIME NOT NULL, floor TEXT, 
	CONSTRAINT pk_releases PRIMARY KEY (revision)
);
INSERT INTO "releases" VALUES('0001','0.1.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0002','0.1.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0004','0.1.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0005','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0006','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0007','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0008','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0009','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0010','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0012','0.2.0','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "releases" VALUES('0013','0.2.0','2026-03-01 12:00:00.000000','0012');
INSERT INTO "releases" VALUES('0014','0.2.0','2026-03-01 12:00:00.000000','0012');
INSERT INTO "releases" VALUES('0015','0.2.0','2026-03-01 12:00:00.000000','0012');
CREATE TABLE requests (
	caller TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	at DATETIME NOT NULL, 
	status INTEGER, 
	headers JSON, 
	body BLOB, 
	CONSTRAINT pk_requests PRIMARY KEY (caller, "key")
);
INSERT INTO "requests" VALUES('0123456789ab','3f1c','sha256:00','2026-03-01 12:00:00.000000',201,'[["etag", "1"]]',X'7B7D');
CREATE TABLE review_marks (
	model TEXT NOT NULL, 
	place TEXT NOT NULL, 
	until DATETIME NOT NULL, 
	CONSTRAINT pk_review_marks PRIMARY KEY (model, place)
);
CREATE TABLE reviews (
	id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	version TEXT NOT NULL, 
	prediction_id TEXT NOT NULL, 
	"row" INTEGER NOT NULL, 
	predicted_at DATETIME NOT NULL, 
	reason TEXT NOT NULL, 
	probability FLOAT NOT NULL, 
	state TEXT NOT NULL, 
	claimed_by TEXT, 
	claimed_until DATETIME, 
	truth TEXT, 
	answered_at DATETIME, 
	CONSTRAINT pk_reviews PRIMARY KEY (id)
);
CREATE TABLE rollout_cohorts (
	rollout TEXT NOT NULL, 
	revision INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	content JSON NOT NULL, 
	CONSTRAINT pk_rollout_cohorts PRIMARY KEY (rollout, revision, number), 
	CONSTRAINT fk_rollout_cohorts_rollout_rollouts FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
INSERT INTO "rollout_cohorts" VALUES('late-00aa11',1,0,'{"number": 0, "stage": 0, "ended_s": 5.0, "current": {"predictions": 300, "unknown": 10.0, "losses": [30.0], "squares": [30.0]}, "candidate": {"predictions": 20, "unknown": 2.0, "losses": [1.0], "squares": [1.0]}}');
CREATE TABLE rollout_counts (
	rollout TEXT NOT NULL, 
	source TEXT NOT NULL, 
	stage INTEGER NOT NULL, 
	content JSON NOT NULL, 
	CONSTRAINT pk_rollout_counts PRIMARY KEY (rollout, source), 
	CONSTRAINT fk_rollout_counts_rollout_rollouts FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
INSERT INTO "rollout_counts" VALUES('late-00aa11','one/2',0,'{"number": 0, "stage": 0, "current": {"requests": 950, "errors": 10, "durations": [40, 900, 41, 40]}, "candidate": {"requests": 50, "errors": 30, "durations": [40, 20]}}');
CREATE TABLE rollout_decisions (
	rollout TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	made_by TEXT NOT NULL, 
	"before" JSON, 
	content JSON NOT NULL, 
	plan_number INTEGER, 
	CONSTRAINT pk_rollout_decisions PRIMARY KEY (rollout, number), 
	CONSTRAINT fk_rollout_decisions_rollout_rollouts FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
INSERT INTO "rollout_decisions" VALUES('late-00aa11',1,'2026-03-01 12:00:00.000000','one:1','null','{"state": {"type": "running", "stage": 0, "since": "2026-03-01T12:00:00Z", "shares": []}, "shares": {"candidate_percent": 5.0, "shadow_percent": 0.0}, "sentence": "late/2 begins with 5 % of the requests of late (canary, against late/1; guards: errors +1 pp, latency +20 %, answers +20 pp, accuracy -2 pp)", "log_e": {}, "intervals": 0, "revision": 0, "failures": [], "trouble": "", "held_by": ""}',2);
INSERT INTO "rollout_decisions" VALUES('late-00aa11',2,'2026-03-01 12:00:00.000000','one:1','{"type": "running", "stage": 0, "since": "2026-03-01T12:00:00Z", "shares": []}','{"state": {"type": "aborted", "at": "2026-03-01T12:00:00Z"}, "shares": {"candidate_percent": 0.0, "shadow_percent": 0.0}, "sentence": "rolled back to late/1: 60.00% of the answers of late/2 failed, and 1.05% of late/1 (allowed errors +1 pp), a difference of 37.02% at least; late/2 is slower than late/1 by more than latency +20 % allows: at p25, 100.00% of its answers are over the limit, and 42.55% may be; evidence of over 10^6 to 1 against 20 to 1 needed; 50 of 1,000 requests saw late/2", "log_e": {"errors +1 pp": 61.46089566902327, "latency +20 %": 10.34877752293734, "answers +20 pp": -20.0, "accuracy -2 pp": 0.0, "all": 60.074601307903386}, "intervals": 1, "revision": 1, "failures": [], "trouble": "", "held_by": ""}',3);
CREATE TABLE rollout_intervals (
	rollout TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	content JSON NOT NULL, 
	log_e FLOAT, 
	CONSTRAINT pk_rollout_intervals PRIMARY KEY (rollout, number), 
	CONSTRAINT fk_rollout_intervals_rollout_rollouts FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
INSERT INTO "rollout_intervals" VALUES('late-00aa11',0,'{"number": 0, "stage": 0, "current": {"requests": 950, "errors": 10, "slow": [[0, 940, 400, 100, 40]], "answers": {"looked": 900, "compared": 900, "changes": 500, "events": [300, 20]}}, "candidate": {"requests": 50, "errors": 30, "slow": [[0, 20, 20, 5, 2]], "answers": {"looked": 50, "compared": 50, "changes": 20, "events": [10, 2]}}}',6.00746013079033858e+01);
CREATE TABLE rollouts (
	id TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	content JSON NOT NULL, 
	decisions INTEGER NOT NULL, 
	latest JSON NOT NULL, 
	sealed JSON NOT NULL, 
	intervals INTEGER NOT NULL, 
	ended_at DATETIME, 
	created_at DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	CONSTRAINT pk_rollouts PRIMARY KEY (id)
);
INSERT INTO "rollouts" VALUES('late-00aa11','late','{"id": "late-00aa11", "started_at": "2026-03-01T12:00:00Z", "endpoint": "late", "candidate": "late/2", "current": "late/1", "strategy": "canary", "guards": [{"name": "errors", "margin": 0.01, "unit": "pp"}, {"name": "latency", "margin": 0.2, "unit": "%"}, {"name": "answers", "margin": 0.2, "unit": "pp"}, {"name": "accuracy", "margin": 0.02, "unit": "pp"}], "steps_percent": [5.0, 25.0, 50.0, 100.0], "step_s": 300.0, "max_s": 604800.0, "min_requests": 100, "alpha": 0.05, "beta": 0.05, "bake_s": 0.0, "holdback_percent": 5.0, "needs_approval": false, "floor": 0.05, "outcomes_sample": 0.5, "load_tries": 7, "allow_answers": false}',2,'{"state": {"type": "aborted", "at": "2026-03-01T12:00:00Z"}, "shares": {"candidate_percent": 0.0, "shadow_percent": 0.0}, "sentence": "rolled back to late/1: 60.00% of the answers of late/2 failed, and 1.05% of late/1 (allowed errors +1 pp), a difference of 37.02% at least; late/2 is slower than late/1 by more than latency +20 % allows: at p25, 100.00% of its answers are over the limit, and 42.55% may be; evidence of over 10^6 to 1 against 20 to 1 needed; 50 of 1,000 requests saw late/2", "log_e": {"errors +1 pp": 61.46089566902327, "latency +20 %": 10.34877752293734, "answers +20 pp": -20.0, "accuracy -2 pp": 0.0, "all": 60.074601307903386}, "intervals": 1, "revision": 1, "failures": [], "trouble": "", "held_by": ""}','{"one/2": {"number": 0, "stage": 0, "current": {"requests": 950, "errors": 10, "durations": [40, 900, 41, 40]}, "candidate": {"requests": 50, "errors": 30, "durations": [40, 20]}}}',1,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','ada','retrained');
CREATE TABLE silences (
	id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	source TEXT NOT NULL, 
	alert TEXT NOT NULL, 
	"by" TEXT NOT NULL, 
	why TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	until DATETIME NOT NULL, 
	CONSTRAINT pk_silences PRIMARY KEY (id)
);
INSERT INTO "silences" VALUES('0123456789ab','late*','','','ada','planned','2026-03-01 12:00:00.000000','2026-03-02 12:00:00.000000');
CREATE TABLE statements (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	content TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	at DATETIME NOT NULL, 
	"by" TEXT NOT NULL, 
	passed BOOLEAN, 
	body JSON NOT NULL, brought_by TEXT, 
	CONSTRAINT uq_statements_content UNIQUE (content)
);
INSERT INTO "statements" VALUES(1,'sha256:4dc32c26e4f00d67f80ef88985c1c1e46e13390f05634b31dfa90ca76753fd7e','sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441','gates','2026-03-01 12:00:00.000000','ci',1,'{"passed": true, "results": [{"criterion": "roc_auc >= 0.8", "passed": true, "reason": "0.5 is not >= 0.8"}]}',NULL);
INSERT INTO "statements" VALUES(2,'sha256:fe4ea5f3394722ac4ec66870dec38b4c218ab3fbfb623e675075eb7d8ac28f4f','sha256:8439fbbae02db7f34e24a2e10093b487a939babb6e5e9465e7eaa30c62b84d37','gates','2026-03-01 12:00:00.000000','ci',0,'{"passed": false, "results": [{"criterion": "roc_auc >= 0.8", "passed": false, "reason": "0.5 is not >= 0.8"}]}',NULL);
CREATE TABLE tags (
	model TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_tags PRIMARY KEY (model, number, "key"), 
	CONSTRAINT fk_tags_model FOREIGN KEY(model, number) REFERENCES versions (model, number)
);
INSERT INTO "tags" VALUES('late',1,'team','risk');
CREATE TABLE versions (
	model TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	pushed_at DATETIME NOT NULL, 
	pushed_by TEXT NOT NULL, retired_at DATETIME, retired_by TEXT, retired_reason TEXT, deprecation JSON, 
	CONSTRAINT pk_versions PRIMARY KEY (model, number), 
	CONSTRAINT fk_versions_model FOREIGN KEY(model) REFERENCES models (name), 
	CONSTRAINT uq_versions_model_digest UNIQUE (model, digest)
);
INSERT INTO "versions" VALUES('late',1,'sha256:e76a351b1722ad22b830da8f8e2082e4dfe4b9859b08ece9611acea02b093441','2026-03-01 12:00:00.000000','ada',NULL,NULL,NULL,NULL);
INSERT INTO "versions" VALUES('late',2,'sha256:8439fbbae02db7f34e24a2e10093b487a939babb6e5e9465e7eaa30c62b84d37','2026-03-01 12:00:00.000000','ada',NULL,NULL,NULL,'{"at": "2026-03-01T12:00:00+00:00", "by": "ada", "reason": "one is better", "sunset": "2027-03-01T00:00:00+00:00", "successor": "late/1"}');
CREATE INDEX ix_versions_digest ON versions (digest);
CREATE INDEX ix_statements_digest ON statements (digest);
CREATE INDEX ix_versions_pushed_at ON versions (pushed_at);
CREATE INDEX ix_tags_key_value ON tags ("key", value);
CREATE INDEX ix_metrics_name_value ON metrics (name, value);
CREATE INDEX ix_events_at ON events (at);
CREATE INDEX ix_events_subject_kind_subject_id ON events (subject_kind, subject, id);
CREATE INDEX ix_requests_at ON requests (at);
CREATE INDEX ix_alerts_model ON alerts (model);
CREATE INDEX ix_alerts_state ON alerts (state);
CREATE INDEX ix_silences_until ON silences (until);
CREATE INDEX ix_notifications_number ON notifications (number);
CREATE INDEX ix_notifications_state_due_at ON notifications (state, due_at);
CREATE INDEX ix_rollouts_endpoint ON rollouts (endpoint);
CREATE INDEX ix_jobs_kind_subject_created_at ON jobs (kind, subject, created_at);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_updated_at ON jobs (updated_at);
CREATE INDEX ix_events_actor_id ON events (actor, id);
CREATE INDEX ix_events_subject_id ON events (subject, id);
CREATE INDEX ix_audit_values_key ON audit_values ("key");
CREATE INDEX ix_approvals_at ON approvals (at);
CREATE INDEX ix_reviews_model_state_predicted_at ON reviews (model, state, predicted_at);
CREATE INDEX ix_quotas_day ON quotas (day);
CREATE INDEX ix_rate_costs_at ON rate_costs (at);
CREATE INDEX ix_devices_group ON devices ("group");
CREATE INDEX ix_device_reports_received_at ON device_reports (received_at);
CREATE INDEX ix_device_rollouts_group ON device_rollouts ("group");
CREATE INDEX ix_keys_name ON keys (name);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('statements',2);
INSERT INTO "sqlite_sequence" VALUES('keys',2);
INSERT INTO "sqlite_sequence" VALUES('events',6);
COMMIT;
