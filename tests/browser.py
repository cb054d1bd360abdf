"""A headless Chromium for the tests of pages, driven by the DevTools protocol over two pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
WAIT = 120  # seconds for an answer; a busy machine takes half a minute to start
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--remote-debugging-pipe',
)


def find() -> str | None:
    """The path of a Chromium; None where none is installed."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    return None


class Browser:
    """A browser with one page.

    Attributes:
        errors: texts of the errors and warnings that the page has caused, those of its script, and
            those of what it tried to load.
        requests: URLs that the page has asked for, data URIs left out.
    """

    def __init__(self, profile: Path):
        # Chromium reads commands from file descriptor 3 and writes answers to 4.
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        redirect = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        words = ['bash', '-c', redirect, 'bash', find(), *FLAGS, f'--user-data-dir={profile}']
        self._process = subprocess.Popen(
            [*words, 'about:blank'],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = b''
        self._last_id = 0
        self._session = ''
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self._page_target()
        answer = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = answer['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def _page_target(self) -> str:
        """The id of the page; a browser that has just started may not have it yet."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            for target in self.call('Target.getTargets')['targetInfos']:
                if target['type'] == 'page':
                    return target['targetId']
            time.sleep(0.1)
        raise TimeoutError('Chromium has no page')

    def call(self, method: str, **parameters) -> dict:
        """Send a command and return its result; what happens meanwhile is noted."""
        self._last_id += 1
        message = {'id': self._last_id, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._commands, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._next()
            if answer.get('id') == self._last_id:
                assert 'error' not in answer, answer
                return answer['result']

    def _next(self) -> dict:
        """The next message of the browser."""
        end = time.monotonic() + WAIT
        while b'\0' not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError('no answer of Chromium')
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise EOFError('Chromium has ended')
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b'\0')
        content = json.loads(message)
        self._note(content.get('method'), content.get('params', {}))
        return content

    def _note(self, event: str | None, parameters: dict) -> None:
        """Keep what an event says of errors and requests."""
        if event == 'Page.loadEventFired':
            self._loaded = True
        elif event == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(parameters['exceptionDetails']))
        elif event == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'warning'):
            self.errors.append(json.dumps(parameters['args']))
        elif event == 'Log.entryAdded' and parameters['entry']['level'] in ('error', 'warning'):
            self.errors.append(json.dumps(parameters['entry']))
        elif event == 'Network.requestWillBeSent':
            url = parameters['request']['url']
            if not url.startswith('data:'):
                self.requests.append(url)

    def open(self, path: Path) -> None:
        """Load a page from the disk and wait until it is complete."""
        self._loaded = False
        self.requests.clear()
        self.errors.clear()
        self.call('Page.navigate', url=path.resolve().as_uri())
        while not self._loaded:
            self._next()

    def resize(self, width: int, height: int = 800) -> None:
        """Make the window so many CSS pixels large; below 600 it is that of a phone."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def colour_scheme(self, scheme: str) -> None:
        """Prefer 'light' or 'dark' pages."""
        feature = {'name': 'prefers-color-scheme', 'value': scheme}
        self.call('Emulation.setEmulatedMedia', features=[feature])

    def value(self, expression: str):
        """The value of a JavaScript expression in the page."""
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def press(self, key: str) -> None:
        """Press a key, e.g. 'Escape', 'ArrowRight' or 'Enter'."""
        codes = {'Escape': 27, 'Enter': 13, 'ArrowLeft': 37, 'ArrowRight': 39}
        event = {'key': key, 'code': key, 'windowsVirtualKeyCode': codes[key]}
        if key == 'Enter':
            event['text'] = '\r'
        self.call('Input.dispatchKeyEvent', type='keyDown', **event)
        self.call('Input.dispatchKeyEvent', type='keyUp', **event)

    def click(self, selector: str) -> None:
        """Click with the mouse into the middle of the first element of a CSS selector."""
        element = f'document.querySelector({json.dumps(selector)})'
        self.value(f'{element}.scrollIntoView({{block: "center"}})')
        box = self.value(f'{element}.getBoundingClientRect().toJSON()')
        place = {'x': box['x'] + box['width'] / 2, 'y': box['y'] + box['height'] / 2}
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, button='left', clickCount=1, **place)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a picture (.png) of the window, or of the whole page."""
        answer = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer['data']))

    def close(self) -> None:
        """End the browser."""
        try:
            self._session = ''
            self.call('Browser.close')
        except (OSError, EOFError, TimeoutError):
            self._process.kill()
        self._process.wait(WAIT)
        os.close(self._commands)
        os.close(self._answers)
