"""Software templates, and their installation on servers."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from trooper_async._api import arguments
from trooper_async._api.endpoints import INSTALL_ADD, INSTALL_DELETE, INSTALL_RETRY, TEMPLATE_CONFIG, TEMPLATES, call
from trooper_async._http.retry import RetryPolicy
from trooper_async._http.transport import Transport
from trooper_async._waiting.judges import Steady
from trooper_async._waiting.look import look_for
from trooper_async._waiting.store import Blank, Snapshot
from trooper_async._waiting.waits import Waits
from trooper_async.errors import TemplateFailedError, WaitError
from trooper_async.models import JSON, Order, Template, TemplateInstall


class Templates:
    """`client.templates`."""

    def __init__(self, transport: Transport, waits: Waits) -> None:
        self._transport = transport
        self._waits = waits

    async def list(self) -> builtins.list[Template]:
        """The templates that there are (GET /api/templates).

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._transport.request(call(TEMPLATES, "templates.list"))

    async def installs(self, order: Order | int) -> builtins.list[TemplateInstall]:
        """What is installed, or being installed, on a server (GET /api/template-config).

        Raises:
            PermissionDeniedError: no such order, or not yours.
            APIConnectionError, APIStatusError, ResponseFormatError: as every read does.
        """
        return await self._installs(arguments.order_id(order), None)

    async def install(
        self, order: Order | int, template: Template | int, config: Mapping[str, object] | None = None
    ) -> int:
        """Begin to install a template on a server (POST /api/template-install-add). Sent once only.

        Args:
            order: the server's order, or its id.
            template: the template, or its id.
            config: the template's options by name.

        Returns:
            The id of the install.

        Raises:
            OutcomeUnknownError: it was sent and the answer lost: look at `installs(order)` before you send it again.
            APIConnectionError, APIStatusError: it was not installed.
        """
        order_id, template_id = arguments.order_id(order), arguments.template_id(template)
        sent: dict[str, JSON] = {
            "order_id": order_id,
            "template_id": template_id,
            "config": arguments.template_config(config, "templates.install"),
        }
        subject = f"template {template_id} on order {order_id}"
        install = call(INSTALL_ADD, "templates.install", subject, sent)
        del config, sent  # a password of the application may be in it, and locals may be printed with a traceback
        return await self._transport.request(install)

    async def install_and_wait(
        self,
        order: Order | int,
        template: Template | int,
        config: Mapping[str, object] | None = None,
        *,
        timeout: float | None = 3600.0,
    ) -> TemplateInstall:
        """Install a template on a server, and wait until it is there.

        A status code that is not known counts as on the way; one whose `status_readable` says "fail" or "error" has
        failed.

        Args:
            order, template, config: as for `install`.
            timeout: seconds from the accepted request; None waits for ever.

        Raises:
            TemplateFailedError: the installation failed; `.install` is how it stands.
            WaitTimeoutError: it was not done in time; it goes on at the API.
            OutcomeUnknownError, APIConnectionError, APIStatusError: as for `install`.
        """
        arguments.check_seconds(timeout)
        order_id = arguments.order_id(order)
        installing = self.install(order, template, config)
        del config  # as in `install`
        return await self._ended(order_id, await installing, "templates.install_and_wait", timeout)

    async def wait(
        self, order: Order | int, install: TemplateInstall | int, *, timeout: float | None = 3600.0
    ) -> TemplateInstall:
        """Wait until an installation that was begun before, by any process, is there.

        Args:
            order: the server's order, or its id.
            install: the install, or its id, as `install` returned it.
            timeout: seconds; None waits for ever.

        Raises:
            TemplateFailedError, WaitTimeoutError: as for `install_and_wait`.
        """
        arguments.check_seconds(timeout)
        order_id, install_id = arguments.order_id(order), arguments.install_id(install)
        return await self._ended(order_id, install_id, "templates.wait", timeout)

    async def remove(self, install: TemplateInstall | int) -> None:
        """Remove an installed template (POST /api/template-install-delete).

        Raises:
            OutcomeUnknownError: it was sent and the answer lost.
            APIConnectionError, APIStatusError: it was not removed.
        """
        install_id = arguments.install_id(install)
        await self._transport.request(
            call(INSTALL_DELETE, "templates.remove", f"install {install_id}", {"install_id": install_id})
        )

    async def retry(self, install: TemplateInstall | int) -> None:
        """Try a failed installation again (POST /api/template-install-retry). Sent once only.

        Raises:
            OutcomeUnknownError: it was sent and the answer lost.
            APIConnectionError, APIStatusError: it was not tried again.
        """
        install_id = arguments.install_id(install)
        await self._transport.request(
            call(INSTALL_RETRY, "templates.retry", f"install {install_id}", {"install_id": install_id})
        )

    async def _installs(self, order_id: int, retry: RetryPolicy | None) -> builtins.list[TemplateInstall]:
        installs = call(TEMPLATE_CONFIG, "templates.installs", f"order {order_id}", {"order_id": order_id})
        return await self._transport.request(installs, retry=retry)

    async def _ended(self, order_id: int, install_id: int, operation: str, timeout: float | None) -> TemplateInstall:
        subject = f"install {install_id} on order {order_id}"
        # what was just accepted may be missing for a while
        absent = Steady(self._waits.schedule.cap * (4 if operation == "templates.install_and_wait" else 1))

        def ended(installs: Snapshot[TemplateInstall], began: float) -> TemplateInstall | None:
            install = installs.get(install_id)
            if install is Blank.ABSENT and absent.seen(began):
                raise WaitError("it is not among the installs of the order", target="installed")
            if not isinstance(install, TemplateInstall):
                return None
            absent.reset()
            if _failed(install):
                text = f"the installation of {install.template_name or 'the template'} failed"
                raise TemplateFailedError(f"{text} ({install.status_readable})", install=install, target="installed")
            return install if _is_done(install) else None

        return await look_for(
            self._waits.installs(order_id),
            ended,
            operation=operation,
            subject=subject,
            target="installed",
            timeout=timeout,
        )


def _is_done(install: TemplateInstall) -> bool:
    return install.status == 1 or (install.status_readable or "").casefold() == "completed"


def _failed(install: TemplateInstall) -> bool:
    text = (install.status_readable or "").casefold()
    return "fail" in text or "error" in text
