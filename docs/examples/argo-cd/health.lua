-- SPDX-License-Identifier: Apache-2.0
--
-- What Argo CD shows as the health of the operator's kinds. An object is Progressing
-- while it waits for something that may be applied a moment later, and Degraded if
-- somebody has to change something. The message is that of the condition Ready.
local waiting = {
  APIResourceNotFound = true,
  AuthorizationServerNotFound = true,
  AuthorizationServerNotReady = true,
  CredentialsNotFound = true,
  Distributing = true,
  NoKeys = true,
  TokenMissing = true,
}

if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "Is being deleted"}
end
local status = obj.status
if status == nil or status.conditions == nil then
  return {status = "Progressing", message = "Waiting for the operator"}
end
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "Waiting for the operator to see the change"}
end
for _, condition in ipairs(status.conditions) do
  if condition.type == "Ready" then
    local health = "Degraded"
    if condition.status == "True" then
      health = "Healthy"
    elseif condition.status == "Unknown" or waiting[condition.reason] then
      health = "Progressing"
    end
    return {status = health, message = condition.message}
  end
end
return {status = "Progressing", message = "Waiting for the operator"}
