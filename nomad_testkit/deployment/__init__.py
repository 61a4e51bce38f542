"""Deploy an example: plan it as pure data, apply the plan with boto3, and destroy it by a sweep of its tag."""
