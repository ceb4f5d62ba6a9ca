// The resources of an app, for people who use Bicep; `fsd deploy` then completes the app.
//
//   python -c "from fsd_azure import names; print(names.function('mine', 'SUBSCRIPTION', 'fsd-mine')[-6:])"      # prints mark
//   az group create --name fsd-mine --location eastus2 --tags fsd-app=mine
//   az deployment group create --resource-group fsd-mine --template-file main.bicep --parameters app=mine mark=...
//   fsd deploy --provider azure --app mine --workers 8 --slots 4
//
// The last line sends the code, reads the function app's key (Azure makes it when the host first runs), tries every queue and the function,
// and writes the result into the function app's settings: before that the app cannot run. Where the settings of fsd differ from the values
// of these parameters, it changes the resources that can be changed. The template resets the function app's settings: deploy again after
// it. `az group delete --name fsd-mine` removes everything.
//
// Tests compare it with the adapter's names, roles and settings and with Azure's published models. It was never compiled or deployed.

@description('The name that everything carries: a lower-case letter, then up to 14 of a-z, 0-9 and -, not ending in -.')
@maxLength(15) // fsd deploy allows 40, since it shortens other names
param app string

@description('6 hexadecimal digits that make names of hosts unlike all others: see above.')
@minLength(6)
@maxLength(6)
param mark string

param region string = 'eastus2'

@description('Functions of one run.')
param ranks int = 8

@description('Runs that can be under way at once.')
param slots int = 4

@description('8 hexadecimal digits; another value after a destroy, so that an old worker finds nothing.')
param generation string = '00000001'

@description('Service Bus namespaces that ranks are spread over: 1 for 8 ranks, 4 for 16, 8 from 22 on.')
param namespaces int = 1

@allowed(['standard', 'premium'])
param tier string = 'standard'

@allowed([512, 2048, 4096])
param memory_mb int = 2048

@maxValue(86399)
param timeout_s int = 900

@description('Functions at once. Azure takes less than 40 in some regions only, if at all, and for HTTP it is no hard cap of the platform.')
@maxValue(1000)
param concurrency int = 100

@minValue(5)
@maxValue(300)
param lease_s int = 10

@description('After so many days the container removes an entry of the audit log.')
@minValue(1)
@maxValue(36500)
param audit_retention_days int = 365

@allowed(['3.11', '3.12', '3.13'])
param runtime string = '3.12'

@description('What a queue takes as one message, premium only; 0: what its tier takes.')
@maxValue(102400)
param message_kb int = 0

@description('URL of your key in a Key Vault, for tier premium; empty: keys of Microsoft.')
param kms_key string = ''

@description('Resource id of a user-assigned identity that may use this key.')
param kms_identity string = ''

@description('Object id of whoever deploys and runs, from az ad signed-in-user show --query id.')
param principal string = deployer().objectId

var tags = { 'fsd-app': app }
var function = 'fsd-${app}-${mark}'
var account = 'fsd${replace(app, '-', '')}${mark}'
var container = contains(app, '--') ? fail('app: two hyphens together are for fsd deploy alone') : 'fsd-${app}'
var sku = tier == 'premium' ? { name: 'Premium', tier: 'Premium', capacity: 1 } : { name: 'Standard', tier: 'Standard' }
var vault = empty(kms_key) ? [''] : split(kms_key, '/keys/')
var identity = empty(kms_key) ? { type: 'None' } : { type: 'UserAssigned', userAssignedIdentities: { '${kms_identity}': {} } }
var busKey = { keyVaultUri: vault[0], keyName: last(vault), identity: { userAssignedIdentity: kms_identity } }
var storageKey = { keyvaulturi: vault[0], keyname: last(vault) }
var hosts = [for i in range(0, namespaces): '${function}-${i}.servicebus.windows.net']
var sender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39' // Azure Service Bus Data Sender
var receiver = '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0' // Azure Service Bus Data Receiver
var owner = '090c5cfd-751d-490a-894a-3ce6f1109419' // Azure Service Bus Data Owner
var blobs = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
var blobsOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b' // Storage Blob Data Owner: the Functions host needs it on its storage

// --- messages: a queue for each rank of each slot; rank r uses namespace r modulo the number of namespaces

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' = [for i in range(0, namespaces): {
  name: '${function}-${i}'
  location: region
  tags: tags
  sku: sku
  identity: identity
  properties: union(
    { minimumTlsVersion: '1.2', disableLocalAuth: true },
    empty(kms_key) ? {} : { encryption: { keySource: 'Microsoft.KeyVault', keyVaultProperties: [busKey] } }
  )
}]

resource queue 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [for i in range(0, ranks * slots): {
  parent: bus[(i % ranks) % namespaces]
  name: 'fsd-${app}-${generation}-${i / ranks}-${i % ranks}'
  properties: union(
    { lockDuration: 'PT${lease_s}S', maxDeliveryCount: 2000, defaultMessageTimeToLive: 'PT86400S' },
    message_kb > 0 ? { maxMessageSizeInKilobytes: message_kb } : {}
  )
}]

// --- objects: private, deleted after a week

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: account
  location: region
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  identity: identity
  properties: union(
    {
      minimumTlsVersion: 'TLS1_2'
      supportsHttpsTrafficOnly: true
      allowBlobPublicAccess: false
      allowSharedKeyAccess: false
    },
    empty(kms_key) ? {} : {
      encryption: {
        keySource: 'Microsoft.Keyvault'
        identity: { userAssignedIdentity: kms_identity }
        keyvaultproperties: storageKey
      }
    }
  )
}

resource life 'Microsoft.Storage/storageAccounts/managementPolicies@2023-05-01' = {
  parent: storage
  name: 'default'
  properties: {
    policy: {
      rules: [
        // All prefixes of keys in the container except that of the audit log; a rule takes ten. The container of the code has no rule.
        {
          name: 'forget0'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: [
                '${container}/0'
                '${container}/1'
                '${container}/2'
                '${container}/3'
                '${container}/4'
                '${container}/5'
                '${container}/6'
                '${container}/7'
                '${container}/8'
                '${container}/9'
              ]
            }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } }
          }
        }
        {
          name: 'forget1'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: [
                '${container}/b'
                '${container}/c'
                '${container}/d'
                '${container}/e'
                '${container}/f'
                '${container}/p'
                '${container}/s'
                '${container}/a0'
                '${container}/a1'
                '${container}/a2'
              ]
            }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } }
          }
        }
        {
          name: 'forget2'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: [
                '${container}/a3'
                '${container}/a4'
                '${container}/a5'
                '${container}/a6'
                '${container}/a7'
                '${container}/a8'
                '${container}/a9'
                '${container}/aa'
                '${container}/ab'
                '${container}/ac'
              ]
            }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } }
          }
        }
        {
          name: 'forget3'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: [
                '${container}/ad'
                '${container}/ae'
                '${container}/af'
              ]
            }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } }
          }
        }
        {
          name: 'forget4'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: [
                '${container}/audit/'
              ]
            }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: audit_retention_days } } }
          }
        }
      ]
    }
  }
}

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: storage
  name: 'default'
}

resource objects 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobService
  name: container
  properties: { publicAccess: 'None', metadata: { fsdapp: app, generation: generation } }
}

resource source 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobService
  name: '${container}-code'
  properties: { publicAccess: 'None', metadata: { fsdapp: app } }
}

// --- the function app, on a plan of its own

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: function
  location: region
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true } // this is how Azure spells Linux
}

resource site 'Microsoft.Web/sites@2024-04-01' = {
  name: function
  location: region
  tags: tags
  kind: 'functionapp,linux'
  identity: { type: 'SystemAssigned' }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${account}.blob.${environment().suffixes.storage}/${container}-code'
          authentication: { type: 'SystemAssignedIdentity' }
        }
      }
      scaleAndConcurrency: {
        maximumInstanceCount: concurrency
        instanceMemoryMB: memory_mb
        triggers: { http: { perInstanceConcurrency: 1 } } // a worker needs the whole memory and CPU of an instance
      }
      runtime: { name: 'python', version: runtime }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      appSettings: [
        { name: 'AzureWebJobsStorage__accountName', value: account } // the host logs in with its identity; without this it makes no keys
        {
          name: 'AzureFunctionsJobHost__functionTimeout'
          value: '${padLeft(timeout_s / 3600, 2, '0')}:${padLeft((timeout_s / 60) % 60, 2, '0')}:${padLeft(timeout_s % 60, 2, '0')}'
        }
        { name: 'PYTHON_THREADPOOL_THREAD_COUNT', value: '1' }
        // The app's resources; fsd_azure/names.py lists the keys. No ranks and no code: the app is not complete.
        {
          name: 'FSD_AZURE_RESOURCES'
          value: string({
            app: app
            ranks: 0
            slots: 0
            names: {
              subscription: subscription().subscriptionId
              resource_group: resourceGroup().name
              function: function
              bus: 'made'
              namespaces: join(hosts, ',')
              storage_account: account
              blob_url: 'https://${account}.blob.${environment().suffixes.storage}'
              container: container
              url: ''
              region: region
              tier: tier
              message_kb: string(message_kb)
              kms_key: kms_key
              kms_identity: kms_identity
              audit_retention_days: string(audit_retention_days)
              memory_mb: string(memory_mb)
              timeout_s: string(timeout_s)
              concurrency: string(concurrency)
              lease_s: string(lease_s)
              runtime: runtime
              code: ''
              package: ''
              generation: generation
            }
          })
        }
      ]
    }
  }
  dependsOn: [source, objects]
}

// --- roles: the function sends, receives and stores; the person who deploys also makes queues

resource workerSends 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for i in range(0, namespaces): {
  scope: bus[i]
  name: guid(bus[i].id, function, sender)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
    principalId: site.identity.principalId
    principalType: 'ServicePrincipal'
  }
}]

resource workerReceives 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for i in range(0, namespaces): {
  scope: bus[i]
  name: guid(bus[i].id, function, receiver)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', receiver)
    principalId: site.identity.principalId
    principalType: 'ServicePrincipal'
  }
}]

resource workerStores 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: storage
  name: guid(storage.id, function, blobsOwner)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobsOwner)
    principalId: site.identity.principalId
    principalType: 'ServicePrincipal'
  }
}

resource deployerOwns 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for i in range(0, namespaces): {
  scope: bus[i]
  name: guid(bus[i].id, principal, owner)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', owner)
    principalId: principal
  }
}]

resource deployerStores 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: storage
  name: guid(storage.id, principal, blobs)
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobs)
    principalId: principal
  }
}

output function string = site.name
