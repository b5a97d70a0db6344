"""Software templates, and their installation on servers."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from trooper_async._api import arguments
from trooper_async._api.endpoints import (
    INSTALL_ADD,
    INSTALL_DELETE,
    INSTALL_RETRY,
    TEMPLATE_CONFIG,
    TEMPLATES,
    Call,
)
from trooper_async._http.transport import Transport
from trooper_async._waiting.judges import Steady
from trooper_async._waiting.look import look_for
from trooper_async._waiting.store import Blank, Snapshot
from trooper_async._waiting.waits import Waits
from trooper_async.errors import TemplateFailedError, WaitError
from trooper_async.models import JSON, Order, Template, TemplateInstall


class Templates:
    """`client.templates`: software templates, and their installation on servers."""

    def __init__(self, transport: Transport, waits: Waits) -> None:
        self._transport = transport
        self._waits = waits

    async def list(self) -> builtins.list[Template]:
        """The templates that can be installed (GET /api/templates).

        Returns:
            The templates, in the API's order.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        return await self._transport.request(Call(TEMPLATES, "templates.list"))

    async def installs(self, order: Order | int) -> builtins.list[TemplateInstall]:
        """What is installed, or being installed, on a server (GET /api/template-config).

        Args:
            order: the order, or its id.

        Returns:
            The installs, in the API's order.

        Raises:
            ConfigurationError: the order is neither an `Order` nor an id. Nothing was sent.
            PermissionDeniedError: the order does not exist, is not yours, or is not ready yet.
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed, or its response cannot be read.
        """
        order_id = arguments.order_id(order, "templates.installs")
        return await self._transport.request(
            Call(TEMPLATE_CONFIG, "templates.installs", f"order {order_id}", {"order_id": order_id})
        )

    async def install(
        self, order: Order | int, template: Template | int, config: Mapping[str, object] | None = None
    ) -> int:
        """Start to install a template on a server (POST /api/template-install-add). Sent once, never repeated.

        Args:
            order: the order, or its id.
            template: the template, or its id.
            config: the template's options: their names, and values of JSON types.

        Returns:
            The id of the install. Pass it to `wait`.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost: look at `installs(order)` before you
                try again.
            APIConnectionError, APIStatusError: nothing was installed.
        """
        install = _install(order, template, config, "templates.install")
        del config  # it may hold a password of the application, and tracebacks may print local variables
        return await self._transport.request(install)

    async def install_and_wait(
        self,
        order: Order | int,
        template: Template | int,
        config: Mapping[str, object] | None = None,
        *,
        timeout: float | None = 3600.0,
    ) -> TemplateInstall:
        """Install a template, and wait for it (POST /api/template-install-add, polls GET /api/template-config).

        An install is finished when its status is 1 or `Completed`, and has failed when its `status_readable` contains
        "fail" or "error". Any other status means that it is in progress.

        Args:
            order: the order, or its id.
            template: the template, or its id.
            config: the template's options: their names, and values of JSON types.
            timeout: seconds from the accepted request; None for no limit.

        Returns:
            The finished install.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost: look at `installs(order)` before you
                try again.
            APIConnectionError, APIStatusError: nothing was installed.
            TemplateFailedError: the installation failed; `error.install` is its last state.
            WaitTimeoutError: it did not finish in time; the installation continues.
            WaitError: it is not among the order's installs, or the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        operation = "templates.install_and_wait"
        arguments.check_seconds(timeout, operation=operation)
        install = _install(order, template, config, operation)
        del config  # as in `install`
        install_id = await self._transport.request(install)
        return await self._ended(arguments.order_id(order, operation), install_id, operation, timeout)

    async def wait(
        self, order: Order | int, install: TemplateInstall | int, *, timeout: float | None = 3600.0
    ) -> TemplateInstall:
        """Wait until an install that was started earlier, by any process, is finished (polls GET /api/template-config).

        An install is finished when its status is 1 or `Completed`, and has failed when its `status_readable` contains
        "fail" or "error". Any other status means that it is in progress.

        Args:
            order: the order, or its id.
            install: the install, or the id that `install` returned.
            timeout: seconds; None for no limit.

        Returns:
            The finished install.

        Raises:
            ConfigurationError: an argument is invalid. Nothing was sent.
            TemplateFailedError: the installation failed; `error.install` is its last state.
            WaitTimeoutError: it did not finish in time; the installation continues.
            WaitError: it is not among the order's installs, or the API refused the key twice in a row.
            ClientClosedError: the client was closed in the meantime.
        """
        operation = "templates.wait"
        arguments.check_seconds(timeout, operation=operation)
        order_id, install_id = arguments.order_id(order, operation), arguments.install_id(install, operation)
        return await self._ended(order_id, install_id, operation, timeout)

    async def remove(self, install: TemplateInstall | int) -> None:
        """Remove an installed template from its server (POST /api/template-install-delete).

        Args:
            install: the install, or its id.

        Raises:
            ConfigurationError: the install is neither a `TemplateInstall` nor an id. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost.
            APIConnectionError, APIStatusError: the install was not removed.
        """
        install_id = arguments.install_id(install, "templates.remove")
        await self._transport.request(
            Call(INSTALL_DELETE, "templates.remove", f"install {install_id}", {"install_id": install_id})
        )

    async def retry(self, install: TemplateInstall | int) -> None:
        """Retry a failed installation (POST /api/template-install-retry). Sent once, never repeated.

        Args:
            install: the install, or its id.

        Raises:
            ConfigurationError: the install is neither a `TemplateInstall` nor an id. Nothing was sent.
            OutcomeUnknownError: the request was sent, but its response was lost: look at `installs(order)` before you
                try again.
            APIConnectionError, APIStatusError: the installation was not retried.
        """
        install_id = arguments.install_id(install, "templates.retry")
        await self._transport.request(
            Call(INSTALL_RETRY, "templates.retry", f"install {install_id}", {"install_id": install_id})
        )

    async def _ended(self, order_id: int, install_id: int, operation: str, timeout: float | None) -> TemplateInstall:
        subject = f"install {install_id} on order {order_id}"
        # an install that was just accepted may be missing for a while
        absent = Steady(self._waits.schedule.cap * (4 if operation == "templates.install_and_wait" else 1))

        def ended(installs: Snapshot[TemplateInstall], began: float) -> TemplateInstall | None:
            install = installs.get(install_id)
            if install is Blank.ABSENT and absent.seen(began):
                raise WaitError("it is not among the installs of the order")
            if not isinstance(install, TemplateInstall):
                return None
            absent.reset()
            word = (install.status_readable or "").casefold()
            if "fail" in word or "error" in word:
                text = f"the installation of {install.template_name or 'the template'} failed"
                raise TemplateFailedError(f"{text} ({install.status_readable})", install=install)
            return install if install.status == 1 or word == "completed" else None

        return await look_for(
            self._waits.installs(order_id),
            ended,
            operation=operation,
            subject=subject,
            target="installed",
            timeout=timeout,
        )


def _install(
    order: Order | int, template: Template | int, config: Mapping[str, object] | None, operation: str
) -> Call[int]:
    order_id, template_id = arguments.order_id(order, operation), arguments.template_id(template, operation)
    sent: dict[str, JSON] = {
        "order_id": order_id,
        "template_id": template_id,
        "config": arguments.template_config(config, operation),
    }
    return Call(INSTALL_ADD, operation, f"template {template_id} on order {order_id}", sent)
