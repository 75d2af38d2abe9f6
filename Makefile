# make alone prints this help; everything here also runs without make, by the scripts it calls.

.DEFAULT_GOAL := help
.PHONY: help run test check prove bench lock

help: ## print this help
	@echo 'mirror_sync: make ...'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 10

run: ## mirror repositories: make run UPSTREAM="URL ..." [PORT=8080] [DIR=path]; without UPSTREAM a demo
	@scripts/run $(if $(DIR),--dir "$(DIR)") $(if $(PORT),--port "$(PORT)") $(UPSTREAM)

test: ## run all tests: make test [ARGS="tests/unit -x"]
	@scripts/test $(ARGS)

check: ## format, lint, strict types, layering
	@scripts/check

prove: ## the longer proofs: crashes at every step, soak
	@scripts/test -m prove $(ARGS)

bench: ## measure, side by side with what else there is
	@scripts/python -m benchmarks $(ARGS)

lock: ## make the hash-pinned lock files again: make lock [ARGS=--upgrade]
	@scripts/lock $(ARGS)
