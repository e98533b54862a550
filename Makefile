SHELL := bash
.SHELLFLAGS := -euo pipefail -c
export GOTOOLCHAIN := local

.PHONY: help demo build test race lint fuzz bench golden verify

help: ## show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: build ## build and run sallyport up --demo
	./sallyport up --demo

build: ## build ./sallyport
	go build -o sallyport ./cmd/sallyport

test: ## run all tests
	go vet ./...
	go test ./...
	@echo "$$(go list ./... | wc -l) packages tested"

race: ## run all tests with the race detector
	go test -race ./...

lint: ## formatting and vet
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...

fuzz: ## run every fuzz target for 20 seconds
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -h '^func Fuzz' $$p/*_test.go | sed -E 's/func (Fuzz[A-Za-z0-9]*).*/\1/'); do \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime 20s $$p; done; done

bench: ## run all benchmarks
	go test -run '^$$' -bench . -benchmem ./...

golden: ## rewrite golden files
	go test ./internal/config ./internal/audit -update

verify: lint ## formatting, vet and the layers
	go test -run TestLayers .
