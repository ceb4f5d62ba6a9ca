# The resources that `fsd deploy --provider aws` makes, for people who use Terraform.
#
#   python -m fsd_aws.package function.zip > package.auto.tfvars.json   # builds the zip; its path and digest
#   terraform init
#   terraform apply -var app=mine -var region=eu-west-1 -var ranks=8
#
# `fsd run --provider aws --app mine` then uses the app. Where its settings differ from the values of these variables, it changes the app.
# `terraform destroy` removes everything.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.60"
    }
  }
}

variable "app" {
  type        = string
  description = "The name that everything carries."
  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$", var.app)) # fsd deploy allows 40, since it shortens the bucket's name
    error_message = "A lower-case letter, then up to 21 of a-z, 0-9 and '-', not ending in '-'."
  }
}

variable "region" {
  type = string
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
  description = "8 hexadecimal digits; another value after a destroy: the name of a deleted queue is blocked for 60 s."
  default     = "00000001"
}

variable "memory_mb" {
  type    = number
  default = 1769 # one vCPU
}

variable "timeout_s" {
  type    = number
  default = 900
}

variable "lease_s" {
  type    = number
  default = 3
}

variable "concurrency" {
  type        = number
  description = "Functions of this app at once, reserved from the account's quota; null: what the account has."
  default     = null
}

variable "audit_retention_days" {
  type        = number
  description = "After so many days the bucket removes an entry of the audit log."
  default     = 365
}

variable "kms_key" {
  type        = string
  description = "ARN of your key, whose policy allows what fsd_aws.policy.key lists; null: keys of AWS, free of charge."
  default     = null
}

variable "runtime" {
  type    = string
  default = "python3.12"
}

variable "package" {
  type        = string
  description = "The zip, from python -m fsd_aws.package."
}

variable "package_text" {
  type        = string
  description = "Its sizes, for people."
}

variable "code" {
  type        = string
  description = "Its digest."
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { "fsd:app" = var.app }
  }
}

data "aws_caller_identity" "me" {}
data "aws_partition" "here" {}

locals {
  account  = data.aws_caller_identity.me.account_id
  function = "fsd-${var.app}"
  prefix   = "fsd-${var.app}-${var.generation}"
  bucket   = "fsd-${var.app}-${local.account}-${var.region}"
  sns      = "arn:${data.aws_partition.here.partition}:sns:${var.region}:${local.account}"
  sqs      = "arn:${data.aws_partition.here.partition}:sqs:${var.region}:${local.account}"
  lambda   = "arn:${data.aws_partition.here.partition}:lambda:${var.region}:${local.account}:function:${local.function}"

  # Without TLS, nobody may do anything. A policy adds what, and on which resource.
  only_tls = {
    Sid       = "OnlyTls"
    Effect    = "Deny"
    Principal = "*"
    Condition = { Bool = { "aws:SecureTransport" = "false" } }
  }

  passing = concat(split("", "0123456789bcdefps"), [for digit in split("", "0123456789abcdef") : "a${digit}"])

  ranks_per_topic = 200 # SNS allows 200 filter policies in one topic
  pairs = { for pair in setproduct(range(var.slots), range(var.ranks)) : "${pair[0]}-${pair[1]}" => {
    slot  = pair[0]
    rank  = pair[1]
    topic = "${pair[0]}-t${floor(pair[1] / local.ranks_per_topic)}"
  } }
}

# --- messages: a topic for up to 200 ranks of a slot, a queue for each rank, a filter between them

resource "aws_sns_topic" "topic" {
  for_each          = toset([for pair in local.pairs : pair.topic])
  name              = "${local.prefix}-${each.key}"
  kms_master_key_id = var.kms_key
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [merge(local.only_tls, { Action = ["sns:Publish"], Resource = "${local.sns}:${local.prefix}-${each.key}" })]
  })
}

resource "aws_sqs_queue" "rank" {
  for_each                  = local.pairs
  name                      = "${local.prefix}-${each.key}"
  message_retention_seconds = 3600
  kms_master_key_id         = var.kms_key
  sqs_managed_sse_enabled   = var.kms_key == null ? true : null # not the key aws/sqs: SNS may not use it, and messages would be lost
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Topics"
      Effect    = "Allow"
      Principal = { Service = "sns.amazonaws.com" }
      Action    = ["sqs:SendMessage"]
      Resource  = "${local.sqs}:${local.prefix}-${each.key}"
      Condition = { ArnLike = { "aws:SourceArn" = "${local.sns}:${local.prefix}-${each.value.slot}-t*" } }
      },
      merge(local.only_tls, { Action = ["sqs:*"], Resource = "${local.sqs}:${local.prefix}-${each.key}" }),
    ]
  })
}

# Messages that SNS could not deliver, from all subscriptions: their attribute `target` names the rank.
resource "aws_sqs_queue" "dead" {
  name                      = "${local.prefix}-dead"
  message_retention_seconds = 1209600
  kms_master_key_id         = var.kms_key
  sqs_managed_sse_enabled   = var.kms_key == null ? true : null
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Topics"
      Effect    = "Allow"
      Principal = { Service = "sns.amazonaws.com" }
      Action    = ["sqs:SendMessage"]
      Resource  = "${local.sqs}:${local.prefix}-dead"
      Condition = { ArnLike = { "aws:SourceArn" = "${local.sns}:${local.prefix}-*" } }
      },
      merge(local.only_tls, { Action = ["sqs:*"], Resource = "${local.sqs}:${local.prefix}-dead" }),
    ]
  })
}

# Launches that Lambda gave up, and functions that died.
resource "aws_sqs_queue" "failed" {
  name                      = "${local.prefix}-failed"
  message_retention_seconds = 3600
  kms_master_key_id         = var.kms_key
  sqs_managed_sse_enabled   = var.kms_key == null ? true : null
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [merge(local.only_tls, { Action = ["sqs:*"], Resource = "${local.sqs}:${local.prefix}-failed" })]
  })
}

resource "aws_sns_topic_subscription" "rank" {
  for_each             = local.pairs
  topic_arn            = aws_sns_topic.topic[each.value.topic].arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.rank[each.key].arn
  raw_message_delivery = true
  filter_policy        = jsonencode({ target = ["${each.value.slot}.${each.value.rank}"] })
  redrive_policy       = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead.arn })
}

# --- objects: private, encrypted, only by TLS, deleted after a week

resource "aws_s3_bucket" "objects" {
  bucket        = local.bucket
  force_destroy = true
}

resource "aws_s3_bucket_public_access_block" "objects" {
  bucket                  = aws_s3_bucket.objects.id
  block_public_acls       = true
  ignore_public_acls      = true
  block_public_policy     = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "objects" {
  bucket     = aws_s3_bucket.objects.id
  depends_on = [aws_s3_bucket_public_access_block.objects]
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [merge(local.only_tls, { Action = ["s3:*"], Resource = [aws_s3_bucket.objects.arn, "${aws_s3_bucket.objects.arn}/*"] })]
  })
}

resource "aws_s3_bucket_server_side_encryption_configuration" "objects" {
  bucket = aws_s3_bucket.objects.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key
    }
    bucket_key_enabled = var.kms_key == null ? null : true # S3 then asks KMS for few keys instead of one for each object
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "objects" {
  bucket = aws_s3_bucket.objects.id
  # All prefixes of keys except that of the audit log: a rule of S3 has one prefix, and cannot leave one out.
  dynamic "rule" {
    for_each = merge({ for prefix in local.passing : prefix => 7 }, { "audit/" = var.audit_retention_days })
    content {
      id     = "fsd ${rule.key}"
      status = "Enabled"
      filter {
        prefix = rule.key
      }
      expiration {
        days = rule.value
      }
    }
  }
  rule {
    id     = "fsd"
    status = "Enabled"
    filter {
      prefix = ""
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

# --- the function, its role and its log

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${local.function}"
  retention_in_days = 14
  kms_key_id        = var.kms_key
}

resource "aws_iam_role" "function" {
  name        = "fsd-${var.app}-${var.region}"
  description = "The workers of app ${var.app}, by fsd"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Take"
      Effect    = "Allow"
      Action    = ["sts:AssumeRole"]
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "function" {
  name = "fsd"
  role = aws_iam_role.function.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([
      { Sid = "Publish", Effect = "Allow", Action = ["sns:Publish"], Resource = "${local.sns}:${local.prefix}-*" },
      { Sid = "Receive", Effect = "Allow", Action = ["sqs:ReceiveMessage", "sqs:DeleteMessage"], Resource = "${local.sqs}:${local.prefix}-*" },
      { Sid = "Send", Effect = "Allow", Action = ["sqs:SendMessage"], Resource = "${local.sqs}:${local.prefix}-*" },
      { Sid = "Objects", Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject"], Resource = "${aws_s3_bucket.objects.arn}/*" },
      { Sid = "Audit", Effect = "Deny", Action = ["s3:GetObject", "s3:PutObject"], Resource = "${aws_s3_bucket.objects.arn}/audit/*" },
      # Without this permission a missing key is 403, not 404.
      { Sid = "Missing", Effect = "Allow", Action = ["s3:ListBucket"], Resource = aws_s3_bucket.objects.arn },
      { Sid = "Launch", Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = local.lambda },
      { Sid = "Log", Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = "${aws_cloudwatch_log_group.function.arn}:*" },
    ], var.kms_key == null ? [] : [{ Sid = "Key", Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = var.kms_key }])
  })
}

resource "aws_lambda_function" "worker" {
  function_name                  = local.function
  role                           = aws_iam_role.function.arn
  runtime                        = var.runtime
  handler                        = "fsd_aws.handler.handler.handler"
  memory_size                    = var.memory_mb
  timeout                        = var.timeout_s
  filename                       = var.package
  source_code_hash               = filebase64sha256(var.package)
  kms_key_arn                    = var.kms_key
  reserved_concurrent_executions = var.concurrency == null ? -1 : var.concurrency
  depends_on                     = [aws_cloudwatch_log_group.function, aws_iam_role_policy.function, aws_sns_topic_subscription.rank]

  environment {
    variables = {
      # The app's resources, for workers and clients; fsd_aws/names.py lists the keys.
      FSD_AWS_RESOURCES = jsonencode({
        app   = var.app
        ranks = var.ranks
        slots = var.slots
        names = merge(var.kms_key == null ? {} : { kms_key = var.kms_key }, {
          region               = var.region
          account              = local.account
          partition            = data.aws_partition.here.partition
          generation           = var.generation
          queue_url_prefix     = trimsuffix(aws_sqs_queue.failed.url, aws_sqs_queue.failed.name)
          function             = local.function
          bucket               = aws_s3_bucket.objects.id
          body                 = "binary"
          package              = var.package_text
          memory_mb            = tostring(var.memory_mb)
          timeout_s            = tostring(var.timeout_s)
          concurrency          = var.concurrency == null ? "" : tostring(var.concurrency)
          lease_s              = tostring(var.lease_s)
          message_kb           = "256"
          audit_retention_days = tostring(var.audit_retention_days)
          runtime              = var.runtime
          code                 = var.code
          role                 = aws_iam_role.function.arn
        })
      })
    }
  }
}

# No retries: a failed worker has reported its reason. Launches that Lambda gives up go to the queue `failed`.
resource "aws_lambda_function_event_invoke_config" "worker" {
  function_name                = aws_lambda_function.worker.function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60
  destination_config {
    on_failure {
      destination = aws_sqs_queue.failed.arn
    }
  }
}

# Without this Lambda stops a chain of 16 functions that start each other, without an error. Our launch tree ends by itself.
resource "aws_lambda_function_recursion_config" "worker" {
  function_name  = aws_lambda_function.worker.function_name
  recursive_loop = "Allow"
}

output "bucket" {
  value = aws_s3_bucket.objects.id
}

output "function" {
  value = aws_lambda_function.worker.function_name
}
