"""JupyterLab on a copy of the lessons, with its own runs and settings, and Debian's Chromium."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


class Lab:
    """A running JupyterLab and one browser page; `errors` is what the console reported."""

    def __init__(self, folder, browser):
        self.folder, self.port, self.token, self.errors = (
            folder,
            free_port(),
            secrets.token_hex(8),
            [],
        )
        shutil.copytree(PROJECT / "notebooks", folder / "notebooks")
        self.environment = os.environ | {
            "PYTHONPATH": str(PROJECT),
            "KIT_RUNS": str(folder / "runs"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "OMP_NUM_THREADS": "1",
            "JUPYTER_CONFIG_PATH": str(PROJECT / "configs"),  # as make lab does
        }
        self.theme("Light")
        config = folder / "config" / "labconfig" / "page_config.json"
        config.parent.mkdir(parents=True)
        config.write_text(
            json.dumps({"disabledExtensions": {"@jupyterlab/debugger-extension": True}})
        )
        command = [
            sys.executable,
            "-m",
            "jupyter",
            "lab",
            "--no-browser",
            "--allow-root",
            f"--port={self.port}",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={folder / 'notebooks'}",
            "--LabApp.expose_app_in_browser=True",
        ]
        self.log = (folder / "lab.log").open("w")
        self.server = subprocess.Popen(
            command, env=self.environment, stdout=self.log, stderr=self.log
        )
        self.wait_for_server()
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(30_000)
        self.page.on(
            "console",
            lambda message: self.report(message.type, f"{message.text} {message.location}"),
        )
        self.page.on("pageerror", lambda error: self.report("error", str(error)))

    def report(self, kind, text):
        if kind == "error" and "favicon" not in text:
            self.errors.append(text)

    def theme(self, name):
        """Use the theme Light or Dark from the next page on."""
        themes = {"apputils-extension/themes": {"theme": f"JupyterLab {name}"}}
        for plugin, values in (SETTINGS | themes).items():
            file = self.folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))

    def wait_for_server(self):
        for _ in range(300):
            try:
                return urllib.request.urlopen(
                    f"http://127.0.0.1:{self.port}/api", timeout=1
                ).close()
            except OSError:
                assert self.server.poll() is None, (self.folder / "lab.log").read_text()[-2000:]
                time.sleep(0.1)
        raise AssertionError("JupyterLab did not answer in 30 seconds")

    def write(self, name, *cells):
        """Write a notebook of code cells."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
        )
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
        nbformat.write(notebook, self.folder / "notebooks" / name)

    def read(self, name):
        return nbformat.read(self.folder / "notebooks" / name, as_version=4)

    def start(self):
        """Load JupyterLab afresh, without a notebook."""
        self.page.goto(f"http://127.0.0.1:{self.port}/lab?token={self.token}&reset")
        self.page.wait_for_selector(".jp-Launcher")

    def look(self, name):
        """Open a notebook in the present page, on one kernel for all, and wait for its cells."""
        self.page.evaluate(
            """async path => {
            [...jupyterapp.shell.widgets("main")].forEach(widget => widget.dispose());
            const kernels = jupyterapp.serviceManager.kernels;
            window.kernel ??= (await kernels.startNew({name: "python3"})).model;
            const options = {path, factory: "Notebook", kernel: window.kernel};
            const panel = await jupyterapp.commands.execute("docmanager:open", options);
            await panel.sessionContext.ready;
        }""",
            name,
        )
        self.page.wait_for_function(
            "n => document.querySelectorAll('.jp-Notebook .jp-Cell').length === n",
            arg=len(self.read(name).cells),
        )

    def open(self, name):
        """Open a notebook in a fresh page and wait until its kernel is idle."""
        self.page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{name}?token={self.token}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell")
        self.wait_idle()

    def wait_idle(self, seconds=60):
        self.page.wait_for_function(
            """() => {
            const kernel = jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;
            return kernel?.status === "idle";
        }""",
            timeout=1000 * seconds,
        )

    def command(self, name):
        self.page.evaluate("name => { jupyterapp.commands.execute(name); }", name)

    def execute(self, code):
        """Run code in the notebook's kernel, and do not wait for its end."""
        self.page.evaluate(
            """code => {
            const context = jupyterapp.shell.currentWidget.sessionContext;
            context.session.kernel.requestExecute({code});
        }""",
            code,
        )

    def run_all(self, seconds=60):
        """Run every cell and wait until the last one ends or one raises."""
        self.page.evaluate("""() => {
            window.finished = false;
            const end = jupyterapp.commands.execute("notebook:run-all-cells");
            end.finally(() => { window.finished = true; });
        }""")
        self.page.wait_for_function("window.finished", timeout=1000 * seconds)

    def outputs(self):
        """Return the visible text of all outputs."""
        return "\n".join(self.page.locator(".jp-OutputArea").all_inner_texts())

    def save(self):
        self.page.evaluate("async () => { await jupyterapp.commands.execute('docmanager:save'); }")

    def shut_down(self):
        """Shut down every kernel, as the menu does."""
        self.page.evaluate(
            "async () => { await jupyterapp.serviceManager.sessions.shutdownAll(); }"
        )

    def screenshot(self, name):
        path = self.folder / "screenshots" / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def close(self):
        self.page.close()
        self.server.terminate()
        self.server.wait(20)
        self.log.close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def browser():
    """Return Debian's Chromium; `apt-get install chromium` where it is missing."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "expected Chromium on the PATH, found none; run apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def running_lab(browser, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"), browser)
    yield lab
    lab.close()


@pytest.fixture
def lab(running_lab):
    """Return the running JupyterLab; a test fails when the browser's console reports an error."""
    running_lab.errors.clear()
    yield running_lab
    errors = list(running_lab.errors)
    running_lab.shut_down()
    assert errors == []
