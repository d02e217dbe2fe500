# Recipes get the user's PYTHON and PIP_ARGS, our own programs first on PATH, and settings that must not lead Ansible
# astray: it refuses a locale that isn't UTF-8, ignores ansible.cfg in a folder anyone can write to, and would take
# another inventory from the environment. What is in .venv is compiled when it is first imported, so that must be kept.
export PYTHON PIP_ARGS
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export LC_ALL := C.UTF-8
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
unexport ANSIBLE_INVENTORY
unexport PYTHONDONTWRITEBYTECODE

# Several files of tests at a time, see tests/conftest.py
PARALLEL := --numprocesses auto --no-loadscope-reorder

# The newest Flower that installs, and the tests of what stands on it
NEWEST := 1.42.0
NEWEST_TESTS := tests/rounds/test_rounds.py $(addprefix tests/unit/test_,$(addsuffix .py, \
	client flower_private joining replies stream strategy strategy_changes submit superlink_guard wire))

.PHONY: help demo stop try test test-all test-newest test-arm64 test-gpu lint lock .venv .venv-dev

help:
	@echo 'make demo    set up, start ten local clients and train for three rounds; again: three more rounds'
	@echo 'make stop    stop those clients and their server'
	@echo 'make try     try a task without a fleet: TASK=task.py DATA=digits CONFIG="batch_size=8" (fl_app/flowerbed/tryout)'
	@echo 'make test    run the tests but those that take minutes (ARGS=--long for all, ARGS="tests/unit -k weights" for some)'
	@echo 'make test-all  run all of them, and fail for each that this machine lacks something for, such as a Docker engine'
	@echo 'make test-newest  the tests of links and rounds, on the newest Flower that installs'
	@echo 'make test-arm64  run trainer and client on an emulated arm64, and ask the package index for its wheels; takes minutes'
	@echo 'make test-gpu  train twice with one seed on the GPU of this machine; on=cpu tries the check itself without one'
	@echo 'make lint    run ansible-lint, yamllint and ruff'
	@echo 'make .venv   only install what requirements.txt lists'
	@echo 'make lock    pin anew what the packages of requirements*.txt depend on'
	@echo
	@echo 'PYTHON=...   the Python to use, 3.10, 3.11 or 3.12 (make demo PYTHON=/path/to/python3.12)'
	@echo 'PIP_ARGS=... arguments for pip, which then installs; so it does where it has PIP_* variables or a pip.conf.'
	@echo '             Else uv installs, with the build of PyTorch that fits: without an NVIDIA driver, one without CUDA'

demo: .venv
	ansible-playbook deploy.yml
	ansible-playbook run_round.yml -e rounds=3

stop: .venv
	ansible-playbook playbooks/stop.yml

try: .venv
	PYTHONPATH=fl_app python -m flowerbed.tryout "$(or $(TASK),fl_app/task.py)" "$(or $(DATA),digits)" \
		$(if $(CONFIG),--config $(CONFIG)) $(ARGS)

test: .venv-dev
	pytest $(PARALLEL) $(ARGS)

test-all: .venv-dev
	pytest $(PARALLEL) --all $(ARGS)

test-newest: .venv-dev
	if python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		python -m pip install --quiet --no-deps --upgrade --target .venv/flwr-newest flwr==$(NEWEST) && \
		PYTHONPATH=$(CURDIR)/.venv/flwr-newest pytest $(PARALLEL) $(ARGS) $(NEWEST_TESTS); \
	else echo 'flwr $(NEWEST) needs Python 3.11'; fi

test-arm64: .venv-dev
	pytest tests/arm64 $(ARGS)

test-gpu: .venv-dev
	FLOWERBED_GPU_CHECK_ON=$(or $(on),cuda) pytest tests/gpu $(ARGS)

lint: .venv-dev
	ansible-lint
	yamllint --strict .
	ruff check
	ruff format --check

lock: .venv-dev
	uv pip compile --quiet --universal --python-version 3.10 --no-annotate --upgrade \
		--custom-compile-command 'make lock' --output-file requirements-lock.txt requirements.txt requirements-dev.txt

.venv:
	@./bootstrap.sh requirements.txt

.venv-dev: .venv
	@./bootstrap.sh requirements-dev.txt
