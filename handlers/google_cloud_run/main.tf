# What `fsd deploy --provider gcp` makes, for those who want to make it with Terraform.
#
#   python -m fsd_gcp.package function.zip > package.auto.tfvars.json   # builds the zip; its path and digest
#   gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com   # Terraform asks these to plan
#   terraform init
#   terraform apply -var app=mine -var project=my-project -var member=user:me@example.org
#
# `fsd run --provider gcp --app mine` then finds the app as it finds one of its own, where its settings are these variables'
# values; where they are not, it changes the app to its own. `terraform destroy` removes everything.
#
# Checked by `terraform fmt -check` and against the adapter's own names, roles and settings by a test; it was never applied.

terraform {
  required_version = ">= 1.3"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.30"
    }
  }
}

variable "app" {
  type        = string
  description = "The name that everything carries."
  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$", var.app)) # up to 40 with fsd deploy, which shortens other names
    error_message = "A lower-case letter, then up to 21 of a-z, 0-9 and '-', not ending in '-'."
  }
}

variable "project" {
  type = string
}

variable "member" {
  type        = string
  description = "Who deploys and runs: user:ADDRESS, or serviceAccount:ADDRESS."
}

variable "region" {
  type    = string
  default = "us-central1"
}

variable "ranks" {
  type        = number
  description = "Functions of one run."
  default     = 8
}

variable "slots" {
  type        = number
  description = "Runs that can be under way at once."
  default     = 4
}

variable "generation" {
  type        = string
  description = "8 hexadecimal digits; another value after a destroy, so that an old worker finds nothing."
  default     = "00000001"
}

variable "memory_mb" {
  type    = number
  default = 2048
}

variable "timeout_s" {
  type    = number
  default = 900
}

variable "lease_s" {
  type    = number
  default = 10
}

variable "audit_retention_days" {
  type        = number
  description = "After so many days the bucket removes an entry of the audit log."
  default     = 365
}

variable "receive" {
  type        = string
  default     = "pull"
  description = "Or stream: messages come as they are sent."
}

variable "concurrency" {
  type        = number
  description = "Functions of this app at once."
  default     = 100
}

variable "runtime" {
  type    = string
  default = "python312"
}

variable "kms_key" {
  type        = string
  description = "The name of your key in Cloud KMS, which the accounts named in docs/how-to-gcp.md may use; null: keys of Google."
  default     = null
}

variable "package" {
  type        = string
  description = "The zip, from python -m fsd_gcp.package."
}

variable "package_text" {
  type        = string
  description = "Its sizes, for people."
}

variable "code" {
  type        = string
  description = "Its digest."
}

provider "google" {
  project = var.project
  region  = var.region
}

locals {
  function = "fsd-${var.app}"
  bucket   = "fsd-${var.app}-${var.project}"
  account  = "fsd-${var.app}-run"
  prefix   = "fsd-${var.app}-${var.generation}"
  labels   = { fsd-app = var.app }
  pairs    = toset([for pair in setproduct(range(var.slots), range(var.ranks)) : "${pair[0]}-${pair[1]}"])
  worker   = "serviceAccount:${google_service_account.worker.email}"
  person   = startswith(var.member, "user:")
  apis = [
    "artifactregistry", "cloudbuild", "cloudfunctions", "cloudresourcemanager", "iam", "iamcredentials", "logging", "pubsub", "run",
    "serviceusage", "storage",
  ]
  cpu = var.memory_mb <= 4096 ? "1" : var.memory_mb <= 8192 ? "2" : var.memory_mb <= 16384 ? "4" : "8"
}

resource "google_project_service" "api" {
  for_each           = toset(local.apis)
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

# --- the account that the function runs as; whoever deploys may say so, and a person may launch with its token

resource "google_service_account" "worker" {
  account_id   = local.account
  display_name = "${local.account}@${var.project}.iam.gserviceaccount.com"
  description  = "The workers of app ${var.app}, by fsd"
  depends_on   = [google_project_service.api]
}

resource "google_service_account_iam_member" "deployer" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = var.member
}

resource "google_service_account_iam_member" "person" {
  count              = local.person ? 1 : 0
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = var.member
}

# --- messages: a topic and a subscription for each rank of each slot

resource "google_pubsub_topic" "rank" {
  for_each     = local.pairs
  name         = "${local.prefix}-${each.key}"
  labels       = local.labels
  kms_key_name = var.kms_key
  depends_on   = [google_project_service.api]
}

resource "google_pubsub_subscription" "rank" {
  for_each                   = local.pairs
  name                       = "${local.prefix}-${each.key}"
  topic                      = google_pubsub_topic.rank[each.key].id
  ack_deadline_seconds       = var.lease_s
  message_retention_duration = "3600s"
  labels                     = local.labels
  expiration_policy {
    ttl = "" # never: the default is after 31 idle days
  }
}

resource "google_pubsub_topic_iam_member" "worker" {
  for_each = local.pairs
  topic    = google_pubsub_topic.rank[each.key].name
  role     = "roles/pubsub.publisher"
  member   = local.worker
}

resource "google_pubsub_subscription_iam_member" "worker" {
  for_each     = local.pairs
  subscription = google_pubsub_subscription.rank[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

# --- objects: private, forgotten after a week

resource "google_storage_bucket" "objects" {
  name                        = local.bucket
  location                    = var.region
  labels                      = local.labels
  force_destroy               = true
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }
  soft_delete_policy {
    retention_duration_seconds = 0 # the default keeps, and bills, what was deleted for a week
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = 7
      matches_prefix = concat(split("", "0123456789bcdefps"), [for digit in split("", "0123456789abcdef") : "a${digit}"]) # all but the audit log
    }
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = var.audit_retention_days
      matches_prefix = ["audit/"]
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
  depends_on = [google_project_service.api]
}

resource "google_storage_bucket_iam_member" "worker" {
  bucket = google_storage_bucket.objects.name
  role   = "roles/storage.objectUser"
  member = local.worker
}

# Google copies it while it builds. The bucket forgets it after a week, and the next apply puts it back.
resource "google_storage_bucket_object" "source" {
  name   = "source/${var.code}.zip"
  bucket = google_storage_bucket.objects.name
  source = var.package
}

# --- the function

data "google_project" "here" {}

# Google takes a key of a function only with a repository for its image that has the same key.
resource "google_artifact_registry_repository" "image" {
  count         = var.kms_key == null ? 0 : 1
  repository_id = local.function
  location      = var.region
  format        = "DOCKER"
  kms_key_name  = var.kms_key
  labels        = local.labels
  depends_on    = [google_project_service.api]
}

resource "google_cloudfunctions2_function" "worker" {
  name         = local.function
  location     = var.region
  labels       = local.labels
  kms_key_name = var.kms_key

  build_config {
    runtime           = var.runtime
    entry_point       = "handle"
    docker_repository = one(google_artifact_registry_repository.image[*].id)
    source {
      storage_source {
        bucket = google_storage_bucket.objects.name
        object = google_storage_bucket_object.source.name
      }
    }
  }

  service_config {
    available_memory                 = "${var.memory_mb}Mi"
    available_cpu                    = local.cpu
    timeout_seconds                  = var.timeout_s
    max_instance_count               = var.concurrency
    max_instance_request_concurrency = 1 # one worker has its memory and its CPU for itself
    service_account_email            = google_service_account.worker.email
    ingress_settings                 = "ALLOW_ALL" # from anywhere, with a token: clients are outside
    environment_variables = {
      THREADS = "1" # so that the server ends a request that is over its time; several threads would only be left behind
      # What workers and clients know of the app; the keys of fsd_gcp/names.py.
      FSD_GCP_RESOURCES = jsonencode({
        app   = var.app
        ranks = var.ranks
        slots = var.slots
        names = {
          project              = var.project
          region               = var.region
          generation           = var.generation
          function             = local.function
          bucket               = google_storage_bucket.objects.name
          url                  = "https://${local.function}-${data.google_project.here.number}.${var.region}.run.app"
          memory_mb            = tostring(var.memory_mb)
          timeout_s            = tostring(var.timeout_s)
          concurrency          = tostring(var.concurrency)
          lease_s              = tostring(var.lease_s)
          receive              = var.receive
          audit_retention_days = tostring(var.audit_retention_days)
          runtime              = var.runtime
          code                 = var.code
          package              = var.package_text
          service_account      = google_service_account.worker.email
          kms_key              = var.kms_key == null ? "" : var.kms_key
        }
      })
    }
  }

  depends_on = [
    google_project_service.api, google_pubsub_subscription.rank, google_pubsub_topic_iam_member.worker,
    google_pubsub_subscription_iam_member.worker, google_storage_bucket_iam_member.worker,
  ]
}

resource "google_cloud_run_v2_service_iam_member" "worker" { # a worker launches others
  name       = local.function
  location   = var.region
  role       = "roles/run.invoker"
  member     = local.worker
  depends_on = [google_cloudfunctions2_function.worker]
}

resource "google_cloud_run_v2_service_iam_member" "client" {
  count      = local.person ? 0 : 1
  name       = local.function
  location   = var.region
  role       = "roles/run.invoker"
  member     = var.member
  depends_on = [google_cloudfunctions2_function.worker]
}

output "bucket" {
  value = google_storage_bucket.objects.name
}

output "function" {
  value = google_cloudfunctions2_function.worker.name
}

output "url" {
  value = google_cloudfunctions2_function.worker.url
}
