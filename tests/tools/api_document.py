"""The sample requests and responses of the API document, verbatim, for the tests to compare with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One endpoint as the document shows it, as text, so that `15.50` stays `15.50`."""

    method: str
    response_text: str
    request_text: str | None = None
    query: str = ""
    errors: tuple[tuple[int, str], ...] = ()

    @property
    def request(self) -> Any:
        """The body of the sample request; None if it has none."""
        return None if self.request_text is None else json.loads(self.request_text)

    @property
    def response(self) -> Any:
        """The body of the success response."""
        return json.loads(self.response_text)


SAMPLES: dict[str, Sample] = {
    "/api/test": Sample(
        method="GET",
        response_text="""{
  "test": "meinstring5"
}""",
    ),
    "/api/blibs": Sample(
        method="GET",
        response_text="""[
  {
    "id": 1,
    "name": "powerai.example",
    "gpu_type": "RTX 4090",
    "gpu_num": 1,
    "gpu_ram": 24,
    "cpu_cores": 8,
    "cpu_ram": 32,
    "hdd": 500,
    "price_h": 0.85,
    "is_public": 1,
    "country_code": "DE",
    "is_available": true,
    "available_hosts": ["ai18", "ai89"],
    "fitCount": 2,
    "maxPossibleInstances": 5
  }
]""",
        errors=(
            (
                500,
                """{
  "error": "Error fetching Blibs"
}""",
            ),
        ),
    ),
    "/api/blibs-private": Sample(
        method="GET",
        response_text="""[
  {
    "id": 2,
    "name": "RTX 4090 Dual Private",
    "gpu_type": "RTX 4090",
    "gpu_num": 2,
    "gpu_ram": 24,
    "cpu_cores": 16,
    "cpu_ram": 64,
    "hdd": 1000,
    "price_h": 1.65,
    "is_public": 1,
    "country_code": "DE"
  }
]""",
        errors=(
            (
                401,
                """{
  "error": "Missing or invalid Authorization header"
}""",
            ),
        ),
    ),
    "/api/order": Sample(
        method="POST",
        request_text="""{
  "blib_id": 1,
  "price_h": 0.85,
  "total_price": 0.85,
  "terms_accepted": true,
  "contract_interval": "HOUR",
  "second_partition_percentage": 20,
  "templates": [
    {
      "id": 1,
      "name": "PyTorch Environment"
    }
  ]
}""",
        response_text="""{
  "success": true,
  "orderId": 123
}""",
        errors=(
            (
                400,
                """{
  "error": "You must accept the terms and conditions."
}""",
            ),
            (
                400,
                """{
  "error": "Invalid or missing contract interval."
}""",
            ),
        ),
    ),
    "/api/orders": Sample(
        method="GET",
        response_text="""[
  {
    "order_id": 123,
    "serverId": 123,
    "title": "My PyTorch Server",
    "status": "running",
    "status_user": "running",
    "server_name": "gpu-server-01",
    "machine_name": "ai99_trooperai_000123",
    "ip": "192.168.1.100",
    "ssh_port": 22001,
    "price_h": 0.85,
    "paid_until": "2025-09-26T14:30:00.000Z",
    "contract_interval": "HOUR",
    "is_locked": false,
    "is_low_priority": false,
    "blib_name": "RTX 4090 Single",
    "blib_gpu_type": "RTX 4090",
    "blib_gpu_num": 1,
    "country_code": "DE",
    "template_installs": [
      {
        "id": 1,
        "template_name": "PyTorch Environment",
        "status": 1,
        "status_readable": "Completed"
      }
    ]
  }
]""",
        errors=(
            (
                401,
                """{
  "error": "Missing or invalid Authorization header",
  "next": "login"
}""",
            ),
        ),
    ),
    "/api/order-status": Sample(
        method="POST",
        request_text="""{
  "serverId": 123,
  "action": "running",
  "migration_allowed": false
}""",
        response_text="""{
  "success": true,
  "message": "Server start initiated successfully",
  "status": "starting"
}""",
        errors=(
            (
                403,
                """{
  "success": false,
  "error": "Server is locked and cannot be modified"
}""",
            ),
        ),
    ),
    "/api/order-title": Sample(
        method="POST",
        request_text="""{
  "serverId": 123,
  "title": "My New Server Title"
}""",
        response_text="""{
  "success": true,
  "message": "Title updated successfully"
}""",
    ),
    "/api/order-lock": Sample(
        method="POST",
        request_text="""{
  "serverId": 123,
  "is_locked": true
}""",
        response_text="""{
  "success": true,
  "updated": 1
}""",
    ),
    "/api/credentials": Sample(
        method="POST",
        request_text="""{
  "serverId": 123
}""",
        response_text="""{
  "success": true,
  "ip": "192.168.1.100",
  "ssh_port": 22001,
  "username": "root",
  "password": "generated-password",
  "status": "running"
}""",
        errors=(
            (
                403,
                """{
  "error": "Access denied or server not found"
}""",
            ),
        ),
    ),
    "/api/order-status-history": Sample(
        method="GET",
        query="order_id=123",
        response_text="""{
  "success": true,
  "history": [
    {
      "id": 1,
      "status_user": "running",
      "status_txt": "Server started successfully",
      "status_since": "2025-09-25T10:30:00.000Z"
    },
    {
      "id": 2,
      "status_user": "stopped",
      "status_txt": "Server stopped by user",
      "status_since": "2025-09-25T08:15:00.000Z"
    }
  ]
}""",
    ),
    "/api/migration-options": Sample(
        method="GET",
        query="order_id=123",
        response_text="""{
  "success": true,
  "currentOrder": {
    "id": 123,
    "title": "My Server",
    "status": "running",
    "contract_interval": "HOUR",
    "paid_until": "2025-09-26T14:30:00.000Z"
  },
  "currentBlib": {
    "id": 1,
    "name": "RTX 4090 Single",
    "gpu_type": "RTX 4090",
    "gpu_num": 1,
    "price_h": 0.85
  },
  "availableBlibs": [
    {
      "id": 2,
      "name": "RTX 4090 Dual",
      "gpu_type": "RTX 4090",
      "gpu_num": 2,
      "price_h": 1.65,
      "is_available": true,
      "additionalCostPerCycle": 0.80
    }
  ]
}""",
    ),
    "/api/migration-cost": Sample(
        method="POST",
        request_text="""{
  "order_id": 123,
  "target_blib_id": 2
}""",
        response_text="""{
  "success": true,
  "upgradeCost": 15.50,
  "remainingValue": 12.30,
  "totalDue": 3.20,
  "additionalCostPerCycle": 0.80,
  "nextBillingDate": "2025-09-26T14:30:00.000Z",
  "currentRate": {
    "amount": 0.85,
    "display": "€0.85/hour"
  },
  "newRate": {
    "amount": 1.65,
    "display": "€1.65/hour"
  }
}""",
    ),
    "/api/buy-migration": Sample(
        method="POST",
        request_text="""{
  "order_id": 123,
  "target_blib_id": 2,
  "keep_data": true
}""",
        response_text="""{
  "success": true,
  "message": "Migration initiated successfully",
  "new_order_id": 124
}""",
        errors=(
            (
                400,
                """{
  "error": "Insufficient budget for migration"
}""",
            ),
        ),
    ),
    "/api/templates": Sample(
        method="GET",
        response_text="""[
  {
    "id": 1,
    "name": "PyTorch Environment",
    "description": "Pre-configured PyTorch environment with CUDA support",
    "category": "Machine Learning",
    "is_public": true,
    "options": [
      {
        "id": 1,
        "name": "Python Version",
        "type": "select",
        "default_value": "3.9",
        "possible_values": "3.8,3.9,3.10"
      }
    ]
  }
]""",
    ),
    "/api/template-config": Sample(
        method="GET",
        query="order_id=123",
        response_text="""{
  "success": true,
  "templates": [
    {
      "install_id": 1,
      "template_id": 1,
      "template_name": "PyTorch Environment",
      "status": 1,
      "status_readable": "Completed",
      "config": {
        "python_version": "3.9"
      }
    }
  ]
}""",
    ),
    "/api/template-install-add": Sample(
        method="POST",
        request_text="""{
  "order_id": 123,
  "template_id": 1,
  "config": {
    "python_version": "3.9"
  }
}""",
        response_text="""{
  "success": true,
  "install_id": 5,
  "message": "Template installation queued"
}""",
    ),
    "/api/template-install-delete": Sample(
        method="POST",
        request_text="""{
  "install_id": 5
}""",
        response_text="""{
  "success": true,
  "message": "Template removal initiated"
}""",
    ),
    "/api/template-install-retry": Sample(
        method="POST",
        request_text="""{
  "install_id": 5
}""",
        response_text="""{
  "success": true,
  "message": "Template installation retry initiated"
}""",
    ),
}
